// One prompt, streamed through several adapters side by side.

// The events of a streamed answer, one parsed object each, until [DONE].
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      yield JSON.parse(event.slice(6));
    }
  }
}

function card(parent, name) {
  const box = document.createElement("article");
  box.className = "answer";
  const title = document.createElement("h3");
  title.textContent = name;
  const text = document.createElement("pre");
  text.setAttribute("aria-live", "off");
  const note = document.createElement("p");
  note.setAttribute("role", "status");
  note.textContent = "waiting …";
  box.append(title, text, note);
  parent.append(box);
  return { box, text, note };
}

async function streamInto(target, post, asked, signal) {
  const began = performance.now();
  let first = 0, tokens = 0;
  const took = () => {
    const rate = tokens > 1 ? (tokens - 1) / ((performance.now() - first) / 1000) : 0;
    return `first token ${Math.round(first - began)} ms · ${tokens} tokens` +
      (rate > 0 ? ` · ${rate.toFixed(1)} tok/s` : "");
  };
  try {
    const response = await post(asked.path, asked.body, signal);
    let reason = "";
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) tokens = event.usage.completion_tokens;
      const choice = event.choices?.[0];
      if (!choice) continue;
      if (first === 0) first = performance.now();
      target.text.append(choice.delta?.content ?? choice.text ?? "");
      reason = choice.finish_reason ?? reason;
    }
    target.note.textContent = `${took()} · ended: ${reason || "cut"}`;
  } catch (error) {
    target.box.classList.add("bad");
    target.note.textContent = error.name === "AbortError" ? "stopped" : error.message;
  }
}

// `post(path, body, signal)` gives a response that is OK, or throws. Ends when all have.
export async function play(parent, post, models, options, signal) {
  parent.replaceChildren();
  const common = {
    stream: true, stream_options: { include_usage: true },
    max_tokens: options.tokens, temperature: options.temperature,
  };
  await Promise.all(models.map(({ name, model }) => {
    const asked = options.chat
      ? { path: "/v1/chat/completions", body: { ...common, model, messages: [{ role: "user", content: options.prompt }] } }
      : { path: "/v1/completions", body: { ...common, model, prompt: options.prompt } };
    return streamInto(card(parent, name), post, asked, signal);
  }));
}
