"""Everything that lorax-client can do here, against a server on its own.

lorax_client.py URL ADAPTER_ID ADAPTERS_DIR SECONDS < PROMPT
prints [token ids, text] of the adapter's answer"""
import asyncio, json, sys, urllib.request

from lorax import AsyncClient, Client
from lorax.errors import GenerationError, ValidationError

url, adapter, adapters_dir = sys.argv[1:4]
patience = int(sys.argv[4])  # for one answer
prompt = sys.stdin.read()
client = Client(url, headers={"Authorization": "Bearer not-used"}, timeout=patience)


def must_raise(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


whole = client.generate(prompt, adapter_id=adapter, max_new_tokens=64, api_token="not-used")
ids = [token.id for token in whole.details.tokens]
assert whole.details.generated_tokens == len(ids) and whole.details.prompt_tokens > 0
assert whole.details.finish_reason == "eos_token", whole.details.finish_reason

events = list(client.generate_stream(prompt, adapter_id=adapter, max_new_tokens=64))
assert [event.token.id for event in events] == ids
assert events[-1].generated_text == whole.generated_text
assert events[-1].details.generated_tokens == len(ids)
assert all(event.generated_text is None for event in events[:-1])

named = client.generate(prompt, adapter_id=adapter, adapter_source="local", max_new_tokens=64)
assert named.generated_text == whole.generated_text
placed = client.generate(prompt, adapter_id=f"{adapters_dir}/{adapter}", adapter_source="local",
                         max_new_tokens=64)
assert placed.generated_text == whole.generated_text
must_raise(ValidationError, lambda: client.generate(
    prompt, adapter_id="/etc", adapter_source="local"))
base = client.generate(prompt, max_new_tokens=8)
assert base.generated_text != whole.generated_text
full = client.generate(prompt, max_new_tokens=8, return_full_text=True)
assert full.generated_text == prompt + base.generated_text

sampled = dict(do_sample=True, temperature=0.9, top_k=20, top_p=0.9, max_new_tokens=6)
first = client.generate(prompt, seed=5, **sampled)
assert client.generate(prompt, seed=5, **sampled) == first and first.details.seed == 5
best = client.generate(prompt, best_of=2, **sampled)
assert len(best.details.best_of_sequences) == 1
several = client.generate(prompt, return_k_alternatives=3, max_new_tokens=2)
assert [len(token.alternative_tokens) for token in several.details.tokens] == [3, 3]
scored = client.generate(prompt, decoder_input_details=True, max_new_tokens=1).details
assert len(scored.prefill) == scored.prompt_tokens and scored.prefill[0].logprob is None
assert all(token.logprob <= 0 for token in scored.prefill[1:])
assert "".join(token.text for token in scored.prefill) == prompt
stopped = client.generate(prompt, max_new_tokens=64, stop_sequences=[base.generated_text[-2:]])
assert stopped.generated_text.endswith(base.generated_text[-2:])

must_raise(GenerationError, lambda: client.generate(prompt, adapter_id="missing/one"))
must_raise(GenerationError, lambda: list(client.generate_stream(prompt, adapter_id="missing/one")))
sentence = must_raise(GenerationError, lambda: client.generate(
    prompt, adapter_id="x/y", adapter_source="pbase"))
assert "(pbase) is not served" in sentence, sentence

# Twice the same, with weights whose roots add up to one: PEFT's linear makes the adapter of it.
twin = {"lora_name": "twin", "lora_path": adapter}
urllib.request.urlopen(urllib.request.Request(
    url + "/v1/load_lora_adapter", json.dumps(twin).encode(), {"Content-Type": "application/json"}))
merge = dict(ids=[adapter, "twin"], weights=[0.25, 0.25], merge_strategy="linear", density=0.5)
merged = client.generate(prompt, merged_adapters=merge, max_new_tokens=64)
assert merged.generated_text == whole.generated_text, merged.generated_text
assert client.generate(prompt, max_new_tokens=64, merged_adapters=merge | dict(
    weights=[0.01, 0.01])).generated_text != whole.generated_text
for strategy in ("ties", "dare_linear", "dare_ties"):
    made = client.generate(prompt, max_new_tokens=4, merged_adapters=merge | dict(
        merge_strategy=strategy, majority_sign_method="frequency"))
    assert made.details.generated_tokens > 0, strategy
merge["ids"] = [adapter, "headline"]  # of other ranks
sentence = must_raise(GenerationError, lambda: client.generate(prompt, merged_adapters=merge))
assert "linear needs equal ranks" in sentence, sentence
sentence = must_raise(GenerationError, lambda: client.generate(
    prompt, merged_adapters=merge, adapter_source="pbase"))
assert "(pbase) is not served" in sentence, sentence
must_raise(ValidationError, lambda: client.generate(prompt, max_new_tokens=10**6))
must_raise(ValidationError, lambda: client.generate(prompt, stop_sequences=["x"] * 100))
schema = {"type": "object", "required": ["city", "visitors"], "properties": {
    "city": {"enum": ["Oslo", "Rome"]},
    "visitors": {"type": "integer", "minimum": 1, "maximum": 99}}}
shaped = client.generate(prompt, max_new_tokens=64,
                         response_format={"type": "json_object", "schema": schema})
answer = json.loads(shaped.generated_text)
assert list(answer) == ["city", "visitors"] and answer["city"] in ("Oslo", "Rome"), answer
assert 1 <= answer["visitors"] <= 99 and shaped.details.finish_reason == "eos_token"
must_raise(ValidationError, lambda: client.generate(
    prompt, response_format={"type": "json_object", "schema": {"type": "nothing"}}))


async def several_at_once():
    asking = AsyncClient(url, timeout=patience)
    answers = await asyncio.gather(*[
        asking.generate(prompt, adapter_id=adapter, max_new_tokens=64) for _ in range(4)])
    assert [answer.generated_text for answer in answers] == [whole.generated_text] * 4
    streamed = [event.token.id async for event in asking.generate_stream(
        prompt, adapter_id=adapter, max_new_tokens=64)]
    assert streamed == ids
    try:
        await asking.generate(prompt, adapter_id="missing/one")
        raise AssertionError("no error")
    except GenerationError:
        pass


asyncio.run(several_at_once())
print(json.dumps([ids, whole.generated_text]))
