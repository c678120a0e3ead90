// openapi.json as a page: each route with its body and its answers.
const base = location.pathname.replace(/\/docs\/?$/, "");
const doc = await (await fetch(base + "/openapi.json")).json();

function node(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function follow(value) {
  while (value?.$ref) value = value.$ref.slice(2).split("/").reduce((at, part) => at[part], doc);
  return value ?? {};
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.map((item) => JSON.stringify(item)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  const types = [schema.type ?? "any"].flat().join(" | ");
  return schema.items ? `${types} of ${typeOf(schema.items)}` : types;
}

function fieldsOf(schema) {
  const table = node("table");
  const required = follow(schema).required ?? [];
  for (const [name, field] of Object.entries(follow(schema).properties ?? {})) {
    const bounds = ["minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength", "maxItems"]
      .filter((bound) => field[bound] !== undefined).map((bound) => `${bound} ${field[bound]}`).join(", ");
    table.append(node("tr", "", node("td", "", node("code", name), required.includes(name) ? " *" : ""),
      node("td", typeOf(field)), node("td", [field.description, bounds].filter(Boolean).join("; "))));
  }
  const scroll = node("div", "", table);
  scroll.className = "scroll";
  return scroll;
}

for (const [path, methods] of Object.entries(doc.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const section = node("section", "", node("h2", `${method.toUpperCase()} ${path}`), node("p", route.summary));
    const body = route.requestBody?.content["application/json"].schema;
    if (body) section.append(node("h3", typeOf(body)), fieldsOf(body));
    const answers = Object.entries(route.responses).map(([code, answer]) => {
      const content = Object.entries(follow(answer).content ?? {});
      const what = content.map(([type, { schema }]) => `${type}: ${typeOf(schema)}`).join(", ");
      return node("li", `${code} ${follow(answer).description}${what ? ` (${what})` : ""}`);
    });
    section.append(node("h3", "Answers"), node("ul", "", ...answers));
    document.getElementById("routes").append(section);
  }
}
for (const [name, schema] of Object.entries(doc.components.schemas)) {
  if (!schema.properties) continue;
  const section = node("section", "", node("h2", name), fieldsOf(schema));
  document.getElementById("routes").append(section);
}
