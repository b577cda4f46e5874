// The image inspector: a dialog with an image of a deck (see inspector.py) and all that is known
// of it. Images of a page open it: elements with data-tile, and contact sheets with data-columns,
// within a .prism-deck that begins with its deck as JSON.
(() => {
if (window.prismInspect) return;

const TILE = 48;  // pixels of an image in a row of them
const STYLE = `
.tile { width: ${TILE}px; height: ${TILE}px; image-rendering: pixelated; cursor: zoom-in; }
.prism-deck [data-tile], .prism-deck [data-columns] { cursor: zoom-in; }
.prism-deck [data-columns] { max-width: 100%; }
.prism-inspector { width: min(920px, 100vw - 16px); max-width: none; max-height: calc(100vh - 16px);
  box-sizing: border-box; padding: 14px; border: 1px solid #8888; border-radius: 8px;
  font: 14px/1.4 system-ui, sans-serif; background: var(--jp-layout-color1, var(--paper, Canvas));
  color: var(--jp-ui-font-color1, var(--ink, CanvasText)); overflow: auto; overscroll-behavior: contain; }
.prism-inspector::backdrop { background: #000a; }
.prism-inspector h2 { font-size: 16px; margin: 0; flex: 1 1 12em; }
.prism-inspector header { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 10px; }
.prism-inspector button { font: inherit; color: inherit; background: #8882; border: 1px solid #8888;
  border-radius: 4px; padding: 3px 10px; cursor: pointer; }
.prism-inspector button:focus-visible { outline: 2px solid #3377cc; }
.prism-inspector main { display: flex; flex-wrap: wrap; gap: 14px 22px; align-items: flex-start; }
.prism-inspector section { flex: 1 1 300px; min-width: 0; overflow-wrap: anywhere; }
.prism-inspector canvas { image-rendering: pixelated; display: block; background: #8883; aspect-ratio: 1; }
.prism-inspector .large { width: min(336px, 100%); }
.prism-inspector .row { display: flex; flex-wrap: wrap; gap: 8px; margin: 8px 0; }
.prism-inspector figure { margin: 0; font-size: 12px; } .prism-inspector figcaption { font-weight: normal; }
 .prism-inspector .beside canvas { width: 104px; }
.prism-inspector .beside figure { width: 104px; } .prism-inspector .growth canvas { width: 44px; }
.prism-inspector .growth { gap: 4px; }
.prism-inspector table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.prism-inspector :is(td, th) { text-align: left; padding: 2px 8px 2px 0; vertical-align: top;
  border-bottom: 1px solid #8884; font-weight: normal; }
.prism-inspector .own { font-weight: 600; }
.prism-inspector .bar { background: linear-gradient(#3388cc55, #3388cc55) no-repeat left / var(--share) 100%; }
.prism-inspector p { margin: 6px 0; }
`;

const make = (name, values = {}, ...children) => {
  const element = Object.assign(document.createElement(name), values);
  element.append(...children);
  return element;
};

// -- pictures --------------------------------------------------------------------------------

const loaded = (sheet) => sheet.loading ??= new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image);
  image.src = sheet.src;
});

async function draw(canvas, sheet, tile, label) {
  const wanted = canvas.wanted = {};
  Object.assign(canvas, {role: "img", ariaLabel: label});
  const image = await loaded(sheet), {side, pitch, columns} = sheet;
  if (canvas.wanted !== wanted) return;  // another image was asked for meanwhile
  const left = (tile % columns) * pitch, top = Math.floor(tile / columns) * pitch;
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, side, side);
}

const picture = (sheet, tile, label) => {
  const canvas = make("canvas");
  draw(canvas, sheet, tile, label);
  return canvas;
};

const captioned = (canvas, caption) => make("figure", {}, canvas, make("figcaption", {}, caption));

// -- the dialog ------------------------------------------------------------------------------

let dialog, shown;  // shown: {deck, order, at}

function build() {
  const button = (text, action) => make("button", {type: "button", textContent: text, onclick: action});
  const body = make("main"), heading = make("h2", {ariaLive: "polite"}), place = make("span");
  const element = make("dialog", {className: "prism-inspector", ariaLabel: "Image inspector"},
    make("header", {}, heading, place, button("Previous", () => walk(-1)), button("Next", () => walk(1)),
      button("Close", () => element.close())), body);
  element.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab would take the arrows
  element.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) { walk(step); event.preventDefault(); }
    event.stopPropagation();
  });
  element.addEventListener("click", (event) => { if (event.target === element) element.close(); });
  element.addEventListener("close", stop);
  document.body.append(element);
  return Object.assign(element, {body, heading, place});
}

const walk = (step) => {
  const {order, at} = shown;
  shown.at = (at + step + order.length) % order.length;
  show();
};

function show() {
  stop();
  const {deck, order, at} = shown, tile = order[at], item = deck.items[tile];
  dialog.heading.textContent = item.title;
  dialog.place.textContent = `${at + 1} of ${order.length}`;
  const large = picture(deck.images, tile, item.title);
  large.className = "large";
  const frames = item.growth ? deck.growth[item.growth[0]] ?? [] : [], grown = item.growth?.[1];
  const beside = make("div", {className: "row beside"});
  if (deck.initial) beside.append(captioned(picture(deck.initial, tile, "initial image"), "initial image"));
  else if (frames.length) beside.append(captioned(picture(frames[0], grown, "initial image"), "initial image"));
  if (deck.nearest && item.nearest !== null) {
    const text = `nearest real image, distance ${item.distance}`;
    beside.append(captioned(picture(deck.nearest, item.nearest, text), text));
  }
  const left = make("section", {}, large, beside);
  if (frames.length) left.append(...growth(frames, grown, large, () => draw(large, deck.images, tile, item.title)));
  else if (item.teachers) left.append(make("p", {}, make("small", {}, "No previews of its growth are kept.")));
  dialog.body.replaceChildren(left, make("section", {}, ...numbers(item)));
}

let timer;
function stop() {
  clearInterval(timer);
  timer = undefined;
}

function growth(frames, tile, large, restore) {
  const strip = make("div", {className: "row growth"}, ...frames.map((frame) =>
    captioned(picture(frame, tile, `step ${frame.step}`), String(frame.step))));
  const play = make("button", {type: "button", textContent: "Play the growth"});
  const end = () => { stop(); restore(); play.textContent = "Play the growth"; };
  play.onclick = () => {
    if (timer !== undefined) return end();
    play.textContent = "Stop";
    let next = 0;
    const step = () => {
      if (next === frames.length) return end();
      draw(large, frames[next], tile, `step ${frames[next].step}`);
      next += 1;
    };
    step();
    timer = setInterval(step, 250);
  };
  return [play, strip];
}

function numbers(item) {
  const rows = item.top.map(({network, role, loss, classes}) => make("tr", {},
    make("th", {scope: "row"}, network, make("br"), make("small", {}, `${role}, loss ${loss}`)),
    make("td", {}, ...classes.map(([name, share, own]) => {
      const line = make("div", {className: own ? "bar own" : "bar"}, `${(100 * share).toFixed(1)} % ${name}${own ? " ✓" : ""}`);
      line.style.setProperty("--share", `${100 * share}%`);
      return line;
    }))));
  const parts = rows.length ? [make("table", {}, make("caption", {hidden: true}, "Top 3 of every network"), ...rows)]
    : [make("p", {}, "What networks take it for is recorded when notebook 03 measures these images.")];
  if (item.teachers) parts.push(make("p", {}, `BN teachers: ${item.teachers}`));
  if (item.losses.length)
    parts.push(make("p", {}, `Last losses: ${item.losses.map(([name, value]) => `${name} ${value}`).join("; ")}`));
  return parts;
}

// Opens the inspector. order: the tiles of the deck to walk over; at: the place of the first.
window.prismInspect = (deck, order, at) => {
  dialog ??= build();
  shown = {deck, order, at};
  show();
  if (!dialog.open) dialog.showModal();
};

// Shows the first tiles of a deck in an element; each opens the inspector, which walks over all.
// They are pieces of one background: hundreds of canvases would take most of a second to draw.
window.prismTiles = (place, deck, tiles, most) => {
  const {src, side, pitch, columns} = deck.images, zoom = TILE / side;
  if (!deck.url) {  // that of a data URL would be read anew for each of them
    const [head, content] = src.split(",");
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    deck.url = URL.createObjectURL(new Blob([bytes], {type: head.slice(5, head.indexOf(";"))}));
  }
  let host = window;
  try { if (parent.prismInspect) host = parent; } catch { /* of another origin */ }
  place.replaceChildren(...tiles.slice(0, most).map((tile, at) => {
    const title = deck.items[tile].title, open = () => host.prismInspect(deck, tiles, at);
    const button = make("div", {role: "button", className: "tile", tabIndex: at ? -1 : 0, title, ariaLabel: title});
    button.style.background = `url(${deck.url}) ${-(tile % columns) * pitch * zoom}px ` +
      `${-Math.floor(tile / columns) * pitch * zoom}px / ${(columns * pitch + side - pitch) * zoom}px`;
    button.onclick = open;
    button.onkeydown = (event) => { if (event.key === "Enter") open(); };
    return button;
  }));
};

// -- pages -----------------------------------------------------------------------------------

function open(event) {
  const element = event.target.closest?.(".prism-deck [data-tile], .prism-deck [data-columns]");
  if (!element) return;
  const host = element.closest(".prism-deck");
  const deck = host.deck ??= JSON.parse(host.querySelector("script[type='application/json']").textContent);
  let tile = Number(element.dataset.tile ?? 0);
  if (element.dataset.columns && event.type === "click") {
    const columns = Number(element.dataset.columns), edge = element.clientWidth / columns;
    tile = Math.floor(event.offsetY / edge) * columns + Math.min(columns - 1, Math.floor(event.offsetX / edge));
  }
  event.preventDefault();
  window.prismInspect(deck, [...deck.items.keys()], tile % deck.items.length);
}
document.addEventListener("click", open);
document.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event); });
document.head.append(make("style", {textContent: STYLE}));
})();
