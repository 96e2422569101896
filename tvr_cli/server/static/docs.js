"use strict";
// Shows the server's own description of its addresses.
(async () => {
  const made = (tag, text, ...inside) => {
    const one = document.createElement(tag);
    if (text) one.textContent = text;
    one.append(...inside);
    return one;
  };
  const kind = (schema) => schema.anyOf ? schema.anyOf.map(kind).filter((one) => one !== "null").join(" or ")
    : schema.type === "array" ? `${kind(schema.items)}, several` : schema.type || "";
  const said = await (await fetch("/openapi.json")).json();
  for (const [path, verbs] of Object.entries(said.paths)) {
    for (const [verb, about] of Object.entries(verbs)) {
      const rows = (about.parameters || []).map((one) => made("tr", "", made("td", "", made("code", one.name)),
        made("td", kind(one.schema)), made("td", one.schema.default === undefined ? "" : JSON.stringify(one.schema.default))));
      const head = made("tr", "", made("th", "name"), made("th", "kind"), made("th", "default"));
      const box = made("div", "", made("table", "", made("thead", "", head), made("tbody", "", ...rows)));
      box.className = "table";
      const section = made("section", "", made("h2", `${verb.toUpperCase()} ${path}`), made("p", about.description || about.summary || ""));
      if (rows.length) section.append(box);
      document.getElementById("addresses").append(section);
    }
  }
})();
