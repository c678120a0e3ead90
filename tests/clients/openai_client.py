"""What programs do with OpenAI's own client, against a server on its own.

openai_client.py URL ADAPTER_ID < PROMPT   prints the text of the adapter's answer"""
import asyncio, json, sys

import openai

url, adapter = sys.argv[1:3]
prompt = sys.stdin.read()
client = openai.OpenAI(base_url=url + "/v1", api_key="not-used", max_retries=0)


def must_raise(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


models = {model.id: model for model in client.models.list()}
base = next(id for id, model in models.items() if model.parent is None)
assert models[adapter].parent == base
assert client.models.retrieve(adapter).id == adapter

asked = dict(model=adapter, prompt=prompt, max_tokens=64, temperature=0)
whole = client.completions.create(**asked)
text = whole.choices[0].text
assert whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens > 0
chunks = list(client.completions.create(**asked, stream=True,
                                        stream_options={"include_usage": True}))
assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == text
again = chunks[-1].usage  # its prompt's whole blocks are there from the first time
assert (again.prompt_tokens, again.completion_tokens) == (
    whole.usage.prompt_tokens, whole.usage.completion_tokens)
assert whole.usage.prompt_tokens_details.cached_tokens == 0
assert again.prompt_tokens_details.cached_tokens > 0

scored = client.completions.create(**(asked | dict(max_tokens=1)), echo=True, logprobs=1).choices[0]
assert scored.text.startswith(prompt) and scored.logprobs.token_logprobs[0] is None
assert len(scored.logprobs.token_logprobs) == whole.usage.prompt_tokens + 1
assert all(logprob <= 0 for logprob in scored.logprobs.token_logprobs[1:])

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
chat = client.chat.completions.create(model=base, messages=messages, max_tokens=12,
                                      temperature=0, logprobs=True, top_logprobs=2)
message = chat.choices[0].message
assert message.role == "assistant" and message.content
assert len(chat.choices[0].logprobs.content) == chat.usage.completion_tokens
assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2
with client.chat.completions.create(model=base, messages=messages, max_tokens=12,
                                    temperature=0, stream=True) as stream:
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
assert streamed == message.content

varied = dict(model=base, messages=messages, max_tokens=4, temperature=1.5, seed=3, n=3)
three = client.chat.completions.create(**varied)
assert [choice.index for choice in three.choices] == [0, 1, 2]
again = client.chat.completions.create(**varied)
assert [c.message.content for c in again.choices] == [c.message.content for c in three.choices]
stopped = client.chat.completions.create(model=base, messages=messages, max_tokens=12,
                                         temperature=0, stop=message.content[3:5])
assert stopped.choices[0].message.content == message.content.split(message.content[3:5])[0]

missing = must_raise(openai.NotFoundError, lambda: client.completions.create(
    model="missing", prompt="x"))
assert missing.code == "model_not_found", missing.body
wrong = must_raise(openai.BadRequestError, lambda: client.completions.create(
    model=base, prompt="x", temperature=-1))
assert wrong.param == "temperature", wrong.body
schema = {"type": "object", "required": ["city", "visitors"], "additionalProperties": False,
          "properties": {"city": {"enum": ["Oslo", "Rome"]},
                         "visitors": {"type": "integer", "minimum": 1, "maximum": 99}}}
shaped = client.chat.completions.create(
    model=base, messages=messages, temperature=0, response_format={
        "type": "json_schema", "json_schema": {"name": "visit", "strict": True, "schema": schema}})
answer = json.loads(shaped.choices[0].message.content)
assert list(answer) == ["city", "visitors"] and answer["city"] in ("Oslo", "Rome"), answer
assert shaped.choices[0].finish_reason == "stop"
wrong = must_raise(openai.BadRequestError, lambda: client.chat.completions.create(
    model=base, messages=messages, response_format={
        "type": "json_schema", "json_schema": {"name": "no", "schema": {"type": "nothing"}}}))
assert wrong.param == "response_format", wrong.body


async def several_at_once():
    asking = openai.AsyncOpenAI(base_url=url + "/v1", api_key="not-used", max_retries=0)
    answers = await asyncio.gather(*[asking.completions.create(**asked) for _ in range(4)])
    assert [answer.choices[0].text for answer in answers] == [text] * 4


asyncio.run(several_at_once())
print(json.dumps(text))
