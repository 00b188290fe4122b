// The page: a task (class boxes and queries), sent to the server at every change, and what the learners answer.

const SIDE = 168, PEN = 12, STEP = 8, KEPT = 60;
const $ = id => document.getElementById(id);

// ---- the task; a picture is a data: URL, or null while nothing is on it
let task = fresh();
let past = [];          // for undo
let learners = [], limits = {classes: 20, examples: 50, queries: 100};
let pages = false;      // whether a predictor is to be had as a page of its own
let answers = [];       // the newest, one for each learner
let chosen = {};        // learner -> which of its inner steps is shown

function fresh() {
  const box = k => ({name: `class ${k + 1}`, pictures: [null], at: 0});
  return {boxes: [0, 1, 2].map(box), queries: [{src: null, label: null}], at: 0};
}

function remember() {
  past.push(JSON.stringify(task));
  if (past.length > KEPT) past.shift();
  $("undo").disabled = false;
}

// ---- small things
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter(c => c != null));
  return node;
}

function draw(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const percent = p => `${(100 * p).toFixed(p > 0.0995 ? 0 : 1)} %`;
const problem = text => { $("problem").textContent = text; };
const image = src => new Promise((done, fail) => {
  const img = new Image();
  img.onload = () => done(img);
  img.onerror = () => fail(new Error("that picture cannot be read."));
  img.src = src;
});

async function redrawn(src, paint) {
  const canvas = make("canvas", {width: SIDE, height: SIDE}), pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, SIDE, SIDE);
  await paint(pen, src == null ? null : await image(src));
  return canvas.toDataURL("image/png");
}

// ---- a canvas on which one draws
function pad(label, read, write) {
  const canvas = make("canvas", {
    width: SIDE, height: SIDE, tabindex: 0, role: "application", "aria-roledescription": "drawing box",
    "aria-label": `${label}: draw here; arrow keys move the pen, with Shift they draw, Delete clears`});
  const pen = canvas.getContext("2d");
  let last = null, used = false, at = [SIDE / 2, SIDE / 2];
  const blank = () => { pen.fillStyle = "#fff"; pen.fillRect(0, 0, SIDE, SIDE); };
  const line = (from, to) => {
    Object.assign(pen, {lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000"});
    pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
  };
  const dot = at => { pen.fillStyle = "#000"; pen.beginPath(); pen.arc(...at, PEN / 2, 0, 2 * Math.PI); pen.fill(); };  // a line of no length leaves none
  const where = event => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
  };
  blank();
  if (read() != null) {
    // darker of the two, so that a stroke begun before the picture is there is kept
    image(read()).then(img => { pen.globalCompositeOperation = "darken"; pen.drawImage(img, 0, 0, SIDE, SIDE);
      pen.globalCompositeOperation = "source-over"; }, () => {});
  }
  const begin = () => { if (!used) { remember(); used = true; } };
  const end = () => { if (used) { used = false; last = null; write(canvas.toDataURL("image/png"), true); } };
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    begin();
    last = where(event);
    dot(last);
    event.preventDefault();
    canvas.focus({preventScroll: true});
  });
  canvas.addEventListener("pointermove", event => {
    if (!last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) { const now = where(each); line(last, now); last = now; }
    write(canvas.toDataURL("image/png"), false);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, end);
  canvas.addEventListener("keydown", event => {
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      remember(); blank(); write(null, true); event.preventDefault();
    } else if (move) {
      const to = at.map((v, i) => Math.min(SIDE - 10, Math.max(10, v + STEP * move[i])));
      if (event.shiftKey) { begin(); line(at, to); write(canvas.toDataURL("image/png"), false); }
      at = to;
      event.preventDefault();
    }
  });
  canvas.addEventListener("keyup", event => { if (event.key === "Shift") end(); });
  canvas.addEventListener("blur", end);
  return canvas;
}

// ---- boxes
function thumbnails(pictures, at, label, choose) {
  return pictures.map((src, i) => make("button", {
    type: "button", "aria-pressed": i === at, "aria-label": label(i), title: label(i),
    onclick: () => { choose(i); show(); }}, src == null ? "" : make("img", {src, alt: ""})));
}

function dropping(box, take) {
  box.addEventListener("dragover", event => { event.preventDefault(); box.classList.add("over"); });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", event => {
    event.preventDefault(); event.stopPropagation();
    box.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  return box;
}

function ask(take) {
  const input = $("files");
  input.value = "";
  input.onchange = () => take([...input.files]);
  input.click();
}

// the camera, where the browser lends one: of a page from elsewhere it does so by https alone, and a phone's file chooser always
async function photograph(put) {
  let stream;
  problem("");
  try { stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}}); }
  catch { return problem("there is no camera that this page may use."); }
  const video = make("video", {autoplay: true, playsinline: true, "aria-label": "what the camera sees"});
  video.muted = true;
  video.srcObject = stream;
  const dialog = make("dialog", {"aria-label": "Camera", onclose: () => { stream.getTracks().forEach(track => track.stop()); dialog.remove(); }},
    video, make("div", {class: "row"},
      make("button", {type: "button", onclick: () => {
        const side = Math.min(video.videoWidth, video.videoHeight);
        if (!side) return;  // it sees nothing yet
        const canvas = make("canvas", {width: 256, height: 256});
        canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, 256, 256);
        dialog.close();
        remember(); put(canvas.toDataURL("image/png")); show(); changed(); }}, "Take picture"),
      make("button", {type: "button", onclick: () => dialog.close()}, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

const byCamera = put => navigator.mediaDevices?.getUserMedia
  ? make("button", {type: "button", onclick: () => photograph(put)}, "Camera") : null;

function boxOf(one, k) {
  const name = make("input", {value: one.name, maxlength: 80, "aria-label": `name of class ${k + 1}`, onchange: event => {
    remember(); one.name = event.target.value.trim() || `class ${k + 1}`; show(); }});
  const put = src => {
    if (one.pictures[one.at] == null) one.pictures[one.at] = src;
    else { one.pictures.push(src); one.at = one.pictures.length - 1; }
  };
  const take = list => addFiles(list, put);
  const few = make("div", {class: "few"});
  const see = () => few.replaceChildren(...thumbnails(one.pictures, one.at, i => `picture ${i + 1} of ${one.name}${one.pictures[i] == null ? ", empty" : ""}`, i => { one.at = i; }));
  const canvas = pad(`${one.name}, picture ${one.at + 1}`, () => one.pictures[one.at], (src, done) => {
    one.pictures[one.at] = src; changed(); if (done) see(); });
  see();
  return dropping(make("div", {class: "box", role: "group", "aria-label": `class ${k + 1}, ${one.name}`},
    make("div", {class: "name"}, make("span", {class: "number", "aria-hidden": true}, `${k + 1}`), name),
    canvas, few,
    make("div", {class: "row"},
      make("button", {type: "button", disabled: one.pictures.length >= limits.examples, onclick: () => {
        remember(); one.pictures.push(null); one.at = one.pictures.length - 1; show(); }}, "Another"),
      make("button", {type: "button", onclick: () => ask(take)}, "Files"), byCamera(put),
      make("button", {type: "button", onclick: () => {
        remember();
        one.pictures.splice(one.at, 1);
        if (!one.pictures.length) one.pictures.push(null);
        one.at = Math.min(one.at, one.pictures.length - 1);
        show(); changed(); }}, "Erase"),
      make("button", {type: "button", disabled: task.boxes.length <= 2, "aria-label": `remove class ${one.name}`, onclick: () => {
        remember();
        task.boxes.splice(k, 1);
        for (const q of task.queries) if (q.label != null) q.label = q.label === k ? null : q.label - (q.label > k);
        show(); changed(); }}, "Remove"))), take);
}

function toQuery(src) {
  if (task.queries[task.at].src == null) task.queries[task.at] = {src, label: null};
  else { task.queries.push({src, label: null}); task.at = task.queries.length - 1; }
}

function queryBox() {
  const one = task.queries[task.at];
  const take = list => addFiles(list, toQuery);
  const few = make("div", {class: "few"});
  const see = () => few.replaceChildren(...thumbnails(task.queries.map(q => q.src), task.at,
    i => `query ${i + 1}${known(task.queries[i])}`, i => { task.at = i; }));
  const canvas = pad(`query ${task.at + 1}`, () => one.src, (src, done) => {
    one.src = src; changed(); if (done) see(); });
  const known = q => q.label == null || !task.boxes[q.label] ? "" : `, truly ${task.boxes[q.label].name}`;
  see();
  const pick = make("select", {id: "truth", onchange: event => {
    remember(); one.label = event.target.value === "" ? null : +event.target.value; show(); }},
    make("option", {value: ""}, "not known"),
    ...task.boxes.map((b, k) => make("option", {value: k, selected: one.label === k}, b.name)));
  return dropping(make("div", {class: "box", role: "group", "aria-label": "query"}, canvas, make("div", {class: "side"},
    make("label", {}, "truly ", pick),
    few,
    make("div", {class: "row"},
      make("button", {type: "button", disabled: task.queries.length >= limits.queries, onclick: () => {
        remember(); task.queries.push({src: null, label: null}); task.at = task.queries.length - 1; show(); }}, "Another"),
      make("button", {type: "button", onclick: () => ask(take)}, "Files"), byCamera(toQuery),
      make("button", {type: "button", onclick: () => {
        remember();
        task.queries.splice(task.at, 1);
        if (!task.queries.length) task.queries.push({src: null, label: null});
        task.at = Math.min(task.at, task.queries.length - 1);
        show(); changed(); }}, "Erase")))), take);
}

function show() {
  const active = document.activeElement;
  const path = active?.closest?.(".box") ? [[...document.querySelectorAll(".box")].indexOf(active.closest(".box")),
    [...active.closest(".box").querySelectorAll("input, canvas, button, select")].indexOf(active)] : null;
  $("boxes").replaceChildren(...task.boxes.map(boxOf));
  $("query").replaceChildren(queryBox());
  $("more").disabled = task.boxes.length >= limits.classes;
  $("undo").disabled = !past.length;
  if (path) document.querySelectorAll(".box")[path[0]]?.querySelectorAll("input, canvas, button, select")[path[1]]
    ?.focus({preventScroll: true});
  showAnswers();
}

// ---- files
async function addFiles(list, put) {
  problem("");
  const tasks = list.filter(f => f.name.endsWith(".json"));
  if (tasks.length) return openTask(tasks[0]);
  let before = false;
  for (const file of list) {
    try {
      const src = await shrunk(file);
      if (!before) { remember(); before = true; }
      put(src);
    } catch { problem(`${file.name} cannot be read as a picture.`); }
  }
  if (before) { show(); changed(); }
}

async function shrunk(file) {
  const url = URL.createObjectURL(file);
  try {
    const img = await image(url), by = Math.min(1, 256 / Math.max(img.naturalWidth, img.naturalHeight));
    const canvas = make("canvas", {width: Math.max(1, Math.round(by * img.naturalWidth)), height: Math.max(1, Math.round(by * img.naturalHeight))});
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(img, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png");
  } finally { URL.revokeObjectURL(url); }
}

function download(name, blob) {
  const link = make("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function openTask(file) {
  try {
    const told = JSON.parse(await file.text());
    const picture = p => { if (typeof p !== "string" || !p.startsWith("data:image/")) throw 0; return p; };
    const boxes = told.classes.slice(0, limits.classes).map(c => ({
      name: String(c.name).slice(0, 80), pictures: c.pictures.length ? c.pictures.slice(0, limits.examples).map(picture) : [null], at: 0}));
    if (boxes.length < 2) throw 0;
    const labels = told.labels ?? [];
    const queries = (told.queries ?? []).slice(0, limits.queries).map((p, i) => ({src: picture(p), label: Number.isInteger(labels[i]) ? labels[i] : null}));
    remember();
    task = {boxes, queries: queries.length ? queries : [{src: null, label: null}], at: 0};
    show(); changed();
  } catch { problem(`${file.name} is no task that this page saved.`); }
}

const filled = () => {
  const classes = task.boxes.map(b => ({name: b.name, pictures: b.pictures.filter(p => p != null)}));
  const queries = task.queries.filter(q => q.src != null);
  return {classes, queries};
};

// ---- asking the server: one request at a time, the newest task next
const SLOW = ["gradient", "rule"];
let busy = false, waiting = false, asked = 0;

async function send(path, body, method = body === undefined ? "GET" : "POST") {
  const given = body === undefined ? {method} : {method, headers: {"content-type": "application/json"}, body: JSON.stringify(body)};
  if (window.still) return window.still(path, body);  // a page without a server
  let reply;
  try { reply = await fetch(path, given); } catch { throw new Error("the server does not answer. Is it still running?"); }
  if (!reply.ok) throw new Error((await reply.json().catch(() => ({error: "the server cannot answer."}))).error);
  return reply;
}

function changed() {
  document.querySelectorAll("#answers > .learner").forEach(card => card.classList.add("old"));
  if (busy) waiting = true;
  else adapt();
}

async function adapt() {
  const {classes, queries} = filled(), some = classes.filter(c => c.pictures.length).length;
  if (some < 2) {
    answers = [];
    showAnswers();
    document.body.dataset.state = "still";
    $("status").textContent = "Draw a picture in at least two boxes, or deal a random task.";
    return;
  }
  busy = true;
  document.body.dataset.state = "busy";
  const began = performance.now(), number = ++asked, asks = {classes, queries: queries.map(q => q.src)};
  // a class without a picture is not known to f: its answers are over the others
  const boxes = task.boxes.map((b, k) => k).filter(k => classes[k].pictures.length);
  const pictures = classes.flatMap(c => c.pictures.map(src => ({src, name: c.name})));
  try {
    // those that descend take longest: the others answer before them, and alone while the pen moves on
    const [quick, slow] = [false, true].map(is => learners.map((_, i) => i).filter(i => SLOW.includes(learners[i].kind) === is));
    for (const group of [quick, slow].filter(one => one.length)) {
      if (waiting && group === slow && quick.length) break;
      const told = (await (await send("/api/adapt", {...asks, learners: group})).json()).answers;
      group.forEach((i, j) => { answers[i] = {...told[j], boxes, pictures}; showAnswers(i); });
    }
    problem("");
    if (!waiting) $("status").textContent = summary(performance.now() - began);
  } catch (error) { problem(error.message); }
  busy = false;
  document.body.dataset.state = waiting ? "busy" : "still";
  document.body.dataset.answered = number;
  if (waiting) { waiting = false; adapt(); } else surer();
}

// ---- sets and strangers: looks at unseen tasks of the same size while nothing is drawn, then the answers anew
const REST = 500;
let resting = null;

function surer() {
  clearTimeout(resting);
  resting = setTimeout(async () => {
    const number = asked;
    let more = false;
    for (const i of learners.keys()) {
      const sure = answers[i]?.sure;
      while (sure && sure.done < sure.of) {
        try { sure.done = (await (await send(`/api/sure/${i}?ways=${sure.ways}&shots=${sure.shots}`)).json()).done; } catch { return; }
        if (busy || number !== asked) return;
        more = true;
      }
    }
    if (more) adapt();
  }, REST);
}

function summary(ms) {
  const told = learners.map((one, i) => {
    const p = shown(i)?.p?.[place()];
    return p ? `${one.name} says ${answers[i].classes[p.indexOf(Math.max(...p))]} (${percent(Math.max(...p))})` : null;
  }).filter(Boolean);
  return `${told.length ? told.join("; ") : "All have adapted; draw a query"}. Answered in ${Math.round(ms)} ms.`;
}

// which row of the answers is the marked query's
const place = () => task.queries[task.at].src == null ? -1 : task.queries.slice(0, task.at).filter(q => q.src != null).length;

// ---- what the learners answer
function shown(i) {
  const answer = answers[i];
  return answer?.path ? answer.path[chosen[i] ?? usual(i)] : answer;
}

const usual = i => Math.max(0, learners[i].steps.indexOf(learners[i].usual));

const KINDS = {
  path: "It takes a few gradient steps on S from the weights that meta-training found.",
  plane: "It compares the query with S in a space that meta-training shaped; nothing is trained here.",
  file: "It was made before and keeps its own classes; it does not look at S.",
  attends: "It reads S as a sequence, and the query as what comes next.",
  samples: "It makes a density of each class's few pictures, from which new ones can be drawn.",
  sequence: "It reads the pictures of S as dots, column by column, into its memory, and then says them again without seeing them.",
  rule: "It is an optimizer that was learned: it trains a small network on S, from scratch.",
  other: "It reads S as a whole, and answers in one pass.",
};

function kind(i) {
  if (["file", "rule", "sequence"].includes(learners[i].kind)) return learners[i].kind;
  return ["path", "plane", "attends", "samples"].find(name => answers[i]?.[name]) ?? (learners[i].kind === "gradient" ? "path" : "other");
}

function bars(names, p) {
  const best = p.indexOf(Math.max(...p));
  return make("ul", {class: "bars"}, ...names.map((name, k) => {
    const fill = make("i");
    fill.style.width = `${100 * p[k]}%`;
    return make("li", {class: k === best ? "best" : ""}, make("span", {class: "who", title: name}, name),
      make("span", {class: "bar", "aria-hidden": true}, fill), make("span", {class: "p"}, percent(p[k])));
  }));
}

function right(i) {
  const answer = answers[i], now = shown(i);
  if (!answer?.boxes || learners[i].kind === "file") return null;
  let good = 0, all = 0;
  task.queries.filter(q => q.src != null).forEach((q, j) => {
    if (q.label == null || !now.p[j]) return;
    all += 1;
    good += answer.boxes[now.p[j].indexOf(Math.max(...now.p[j]))] === q.label;
  });
  return all ? make("p", {}, `Right on ${good} of ${all} labelled queries.`) : null;
}

function curve(path, at) {
  const svg = draw("svg", {viewBox: "0 0 160 110", role: "img", "aria-label": `loss on S: ${path.map(e => `${e.loss} after ${e.steps} steps`).join(", ")}`});
  const most = Math.max(...path.map(e => e.loss), 1e-9), x = i => 14 + 132 * i / Math.max(1, path.length - 1), y = loss => 88 - 74 * loss / most;
  svg.append(draw("line", {x1: 8, y1: 88, x2: 152, y2: 88, class: "axis"}));
  svg.append(draw("polyline", {class: "line", points: path.map((e, i) => `${x(i)},${y(e.loss)}`).join(" ")}));
  path.forEach((e, i) => svg.append(draw("circle", {cx: x(i), cy: y(e.loss), r: i === at ? 5 : 2.5, class: i === at ? "here" : "dot"}),
    draw("text", {x: x(i), y: 101}, e.steps)));
  return make("figure", {}, svg, make("figcaption", {}, `Loss on S after each number of steps, from 0 to ${most.toPrecision(2)}; now ${path[at].loss.toPrecision(2)}.`));
}

function walk(path, at) {
  if (!path[0].at) return null;
  const svg = draw("svg", {viewBox: "0 0 160 110", role: "img", "aria-label": "the path of the weights in a plane"});
  const x = v => 80 + 68 * v, y = v => 55 - 46 * v;
  svg.append(draw("polyline", {class: "line", points: path.map(e => `${x(e.at[0])},${y(e.at[1])}`).join(" ")}));
  path.forEach((e, i) => svg.append(draw("circle", {cx: x(e.at[0]), cy: y(e.at[1]), r: i === at ? 5 : 2.5, class: i === at ? "here" : "dot"})));
  return make("figure", {}, svg, make("figcaption", {}, "The weights' path from where meta-training left them, in the plane in which they move most."));
}

function space(plane, names) {
  const svg = draw("svg", {viewBox: "0 0 320 220", role: "img", "aria-label": "examples, prototypes and queries as the learner sees them"});
  const inside = (v, most) => Math.max(-most, Math.min(most, v));
  const x = v => 160 + inside(130 * v, 148), y = v => 110 - inside(90 * v, 98);
  svg.append(draw("line", {x1: 0, y1: 110, x2: 320, y2: 110, class: "axis"}), draw("line", {x1: 160, y1: 0, x2: 160, y2: 220, class: "axis"}));
  plane.support.forEach((z, i) => svg.append(draw("text", {x: x(z[0]), y: y(z[1]), class: "example"}, plane.y[i] + 1)));
  plane.prototypes.forEach((z, k) => svg.append(draw("circle", {cx: x(z[0]), cy: y(z[1]), r: 9, class: "proto"}, undefined),
    draw("text", {x: x(z[0]), y: y(z[1])}, k + 1)));
  plane.queries.forEach((z, i) => {
    if (i !== place()) svg.append(draw("circle", {cx: x(z[0]), cy: y(z[1]), r: 3, class: "query"}));
  });
  const q = plane.queries[place()];
  if (q) svg.append(draw("circle", {cx: x(q[0]), cy: y(q[1]), r: 9, class: "query"}), draw("text", {x: x(q[0]), y: y(q[1])}, "?"));
  return make("figure", {}, svg, make("figcaption", {}, `${plane.prototypes.length ? "Rings with a number are the classes' prototypes" : "Numbers are examples of the classes"}, ? is the marked query, small rings the others. The plane is fixed, so things move only when you change them.`));
}

function attention(weights, pictures, slots) {
  const most = Math.max(...weights, 1e-9);
  return make("figure", {}, make("ul", {class: "looks"}, ...pictures.map(({src, name}, j) => {
    const fill = make("i");
    fill.style.width = `${100 * weights[j] / most}%`;
    return make("li", {}, make("img", {src, alt: `a picture of ${name}`}), make("span", {class: "bar", "aria-hidden": true}, fill), percent(weights[j]));
  })), make("figcaption", {}, 
    `What it attends to: the weight of each picture of S when it answers the marked query.${slots ? " It reads slots of a memory; a slot counts for the picture that changed it most." : ""}`));
}

function drawn(samples, names) {
  return make("figure", {}, ...samples.map((pictures, k) => make("div", {class: "few", role: "group", "aria-label": `drawn from ${names[k]}`},
    make("span", {class: "number"}, names[k]), ...pictures.map(src => make("img", {src, alt: ""})))),
    make("figcaption", {}, "New pictures that it draws from the density it has made of each class's pictures; none of them is in S."));
}

function saidAgain({read, says, right, columns, looks}) {
  const dots = (src, alt, text) => make("figure", {}, make("img", {src, alt, class: "dots"}), make("figcaption", {}, text));
  return make("div", {class: "plots"}, dots(read, "the dots that it read", `What it read: ${columns} columns of dots.`),
    dots(says, "the dots that it says", `What it says of them; grey is unsure. ${percent(right)} of the dots are right.`),
    looks ? dots(looks, "what it attends to", "What it attends to: a row for each column that it says, from the top, and in it the columns that it read, from left to right. A slot of the memory counts for the column that changed it most; a line from corner to corner says that it looks them up in their order.") : null);
}

function race({learned, adam, lr}) {
  const told = `Loss on S: the learned rule (line) ends at ${learned.at(-1).toFixed(3)}, Adam (dashes) at ${adam.at(-1).toFixed(3)}, at ${lr}, the best of three rates; ${learned.length - 1} steps from the same start.`;
  const svg = draw("svg", {viewBox: "0 0 160 110", role: "img", "aria-label": told});
  const most = 1.5 * learned[0], x = i => 14 + 132 * i / (learned.length - 1), y = v => 96 - 82 * Math.min(1, v / most);
  svg.append(draw("line", {x1: 8, y1: 96, x2: 152, y2: 96, class: "axis"}));
  for (const [name, values] of [["line dashed", adam], ["line", learned]])
    svg.append(draw("polyline", {class: name, points: values.map((v, i) => `${x(i)},${y(v)}`).join(" ")}));
  return make("figure", {}, svg, make("figcaption", {}, told));
}

function card(one, i) {
  const answer = answers[i], now = shown(i), parts = [];
  const usualKind = kind(i);
  if (answer?.error) parts.push(make("p", {class: "wrong"}, answer.error));
  else if (answer) {
    const p = now.p[place()];
    if (p) {
      parts.push(bars(answer.classes, p));
      if (answer.none?.[place()]) parts.push(make("p", {class: "wrong"}, "It may be none of these: of pictures of other classes one in ten looks as much like one of its own."));
      if (answer.sets) parts.push(make("p", {}, `Set that holds the right class nine times in ten: ${answer.sets[place()].map(k => answer.classes[k]).join(", ")}.`));
      if (answer.sets && answer.sure) parts.push(make("p", {class: "says"}, `Set and "none of these" are told from ${answer.sure.of} unseen tasks of its data, of ${answer.sure.ways} classes with ${answer.sure.shots} picture${answer.sure.shots === 1 ? "" : "s"} each; drawings unlike them are less sure.`));
      const why = answer["why no sets"], whyNot = answer["why no none"];
      if (why) parts.push(make("p", {class: "says"}, `No set: ${why}`));
      if (whyNot) parts.push(make("p", {class: "says"}, `"None of these" is never said: ${whyNot}`));
    } else if (!answer.said) parts.push(make("p", {class: "says"}, "Draw a query to see what it says."));
    parts.push(right(i));
    if (answer.path) {
      const at = chosen[i] ?? usual(i), text = () => `${answer.path[chosen[i] ?? at].steps} inner steps`;
      const slider = make("input", {type: "range", min: 0, max: answer.path.length - 1, step: 1, value: at,
        "aria-label": `inner steps of ${one.name}`, "aria-valuetext": text(), oninput: event => {
          chosen[i] = +event.target.value;
          showAnswers(i);
        }});
      parts.push(make("label", {}, make("span", {class: "steps"}, text()), slider),
        make("div", {class: "plots"}, curve(answer.path, at), walk(answer.path, at)));
    }
    if (answer.plane) parts.push(make("div", {class: "plots"}, space(answer.plane, answer.classes)));
    if (answer.attends?.[place()]) parts.push(attention(answer.attends[place()], answer.pictures, answer.slots));
    if (answer.said) parts.push(saidAgain(answer.said));
    if (answer.samples) parts.push(drawn(answer.samples, answer.classes));
    if (answer.descent) parts.push(make("div", {class: "plots"}, race(answer.descent)));
    parts.push(make("p", {class: "says"}, one.adapts ? `Adapted in ${answer.ms} ms.` : `Answered in ${answer.ms} ms.`));
    const saved = (path, ending) => async () => {
      try {
        const {classes} = filled();
        download(`${one.name}.${ending}`, await (await send(`/api/${path}/${i}`, {classes})).blob());
      } catch (error) { problem(error.message); }
    };
    if (one.adapts && !one.still) parts.push(make("div", {class: "row"},
      make("button", {type: "button", onclick: saved("predictor", "safetensors")}, "Download predictor"),
      pages ? make("button", {type: "button", onclick: saved("page", "html"),
        title: "A page of its own, which tells your classes apart in any browser, without this server"}, "Download as a page") : null));
  }
  const about = one.recipe ? `${one.recipe}, ${one.trained} meta-step${one.trained === 1 ? "" : "s"}. ` : "";
  return make("article", {class: "learner", id: `learner-${i}`, "aria-labelledby": `name-${i}`},
    make("h3", {id: `name-${i}`}, one.name), make("p", {class: "says"}, about + KINDS[usualKind]), ...parts);
}

function showAnswers(only) {
  if (only !== undefined) {
    const before = $(`learner-${only}`), within = [...before.querySelectorAll("input, button")].indexOf(document.activeElement);
    before.replaceWith(card(learners[only], only));
    if (within >= 0) $(`learner-${only}`).querySelectorAll("input, button")[within]?.focus({preventScroll: true});
    return;
  }
  $("answers").replaceChildren(...learners.map(card));
}

// ---- meta-training, a few steps at each request; whoever stops asking has stopped it
let training = null;  // {number, seen: answers in their order, goes}

function series(values, steps, of, most, label) {
  const svg = draw("svg", {viewBox: "0 0 160 110", role: "img", "aria-label": label});
  const x = step => 14 + 132 * step / of, y = v => 96 - 82 * Math.min(1, v / most);
  svg.append(draw("line", {x1: 8, y1: 96, x2: 152, y2: 96, class: "axis"}));
  svg.append(draw("polyline", {class: "line", points: values.map((v, i) => `${x(steps[i])},${y(v)}`).join(" ")}));
  if (values.length) svg.append(draw("circle", {cx: x(steps.at(-1)), cy: y(values.at(-1)), r: 4, class: "here"}));
  return make("figure", {}, svg, make("figcaption", {}, label));
}

function showTraining() {
  const {seen, goes} = training, now = seen.at(-1), parts = [];
  $("train").disabled = goes;
  $("halt").disabled = !goes;
  if (!now) return;
  parts.push(make("p", {class: "steps"}, `${now.step} of ${now.of} meta-steps${goes ? "" : now.step < now.of ? ", stopped" : ", done"}.`));
  const p = now.p[place()];
  if (p) parts.push(bars(now.classes, p));
  const means = seen.filter(one => one.right != null), losses = seen.filter(one => one.loss != null);
  const plots = make("div", {class: "plots"});
  if (losses.length) plots.append(series(losses.map(one => one.loss), losses.map(one => one.step), now.of, Math.max(...losses.map(one => one.loss)),
    `Meta-training loss, on new tasks of ten glyphs each; now ${losses.at(-1).loss.toFixed(2)}.`));
  if (means.length) plots.append(series(means.map(one => one.right), means.map(one => one.step), now.of, 1,
    `Probability of the right class, mean over your labelled queries: ${percent(means[0].right)} at step ${means[0].step}, now ${percent(means.at(-1).right)}.`));
  else plots.append(make("p", {class: "says"}, "Say what a query truly is, or deal a task, to see how the right class gains."));
  parts.push(plots);
  $("trained").replaceChildren(make("div", {class: "learner"}, ...parts));
}

async function advance(mine) {
  const {classes, queries} = filled();
  // answers and their labels, as the task was when it was asked
  const kept = task.boxes.map((b, k) => k).filter(k => classes[k].pictures.length), labels = queries.map(q => kept.indexOf(q.label));
  const told = await (await send(`/api/training/${mine.number}`, {classes, queries: queries.map(q => q.src)})).json();
  const known = told.p.map((p, i) => labels[i] < 0 ? null : p[labels[i]]).filter(p => p != null);
  mine.seen.push({...told, right: known.length ? known.reduce((a, b) => a + b, 0) / known.length : null});
  if (told.step >= told.of) mine.goes = false;
}

$("train").onclick = async () => {
  if (training?.goes) return;
  problem("");
  const mine = training = {number: null, seen: [], goes: true};
  showTraining();
  try {
    mine.number = (await (await send("/api/training", {})).json()).number;
    while (mine.goes) { await advance(mine); showTraining(); }
  } catch (error) { problem(error.message); }
  mine.goes = false;
  const last = mine.seen.at(-1);
  if (mine.number != null && !(last?.step >= last?.of)) await send(`/api/training/${mine.number}`, undefined, "DELETE").catch(() => {});
  showTraining();
};
$("halt").onclick = () => { if (training) training.goes = false; $("halt").disabled = true; };

// ---- buttons
$("tools").addEventListener("submit", async event => {
  event.preventDefault();
  try {
    problem("");
    const seed = Math.floor(Math.random() * 2 ** 31);
    const ask = new URLSearchParams({ways: $("ways").value, shots: $("shots").value, queries: 2, seed});
    const dealt = await (await send(`/api/task/${$("from").value}?${ask}`)).json();
    remember();
    task = {boxes: dealt.classes.map(c => ({...c, at: 0})), queries: dealt.queries.map((src, i) => ({src, label: dealt.labels[i]})), at: 0};
    show(); changed();
  } catch (error) { problem(error.message); }
});

async function onQueries(paint) {
  remember();
  for (const q of task.queries) if (q.src != null) q.src = await redrawn(q.src, paint);
  show(); changed();
}

$("rotate").onclick = () => onQueries((pen, img) => {
  pen.translate(SIDE / 2, SIDE / 2);
  pen.rotate(Math.PI / 2);
  pen.drawImage(img, -SIDE / 2, -SIDE / 2, SIDE, SIDE);
});

$("noise").onclick = () => onQueries((pen, img) => {
  pen.drawImage(img, 0, 0, SIDE, SIDE);
  const dots = pen.getImageData(0, 0, SIDE, SIDE), size = 6;
  for (let y = 0; y < SIDE; y += size) for (let x = 0; x < SIDE; x += size) {
    const by = 160 * (Math.random() + Math.random() - 1);
    for (let v = y; v < y + size; v++) for (let u = x; u < x + size; u++) for (let c = 0; c < 3; c++) dots.data[4 * (v * SIDE + u) + c] += by;
  }
  pen.putImageData(dots, 0, 0);
});

$("shuffle").onclick = () => {
  remember();
  const slots = task.boxes.flatMap(b => b.pictures.map((src, i) => [b, i])).filter(([b, i]) => b.pictures[i] != null);
  const all = slots.map(([b, i]) => b.pictures[i]);
  for (let i = all.length - 1; i > 0; i--) { const j = Math.floor(Math.random() * (i + 1)); [all[i], all[j]] = [all[j], all[i]]; }
  slots.forEach(([b, i], j) => { b.pictures[i] = all[j]; });
  show(); changed();
};

$("swap").onclick = () => {
  const per = task.boxes.map((_, k) => task.queries.filter(q => q.src != null && q.label === k).map(q => q.src));
  if (per.some(p => !p.length)) return problem("To swap, every class needs a query that is truly of it.");
  problem("");
  remember();
  const queries = task.boxes.flatMap((b, k) => b.pictures.filter(p => p != null).map(src => ({src, label: k})));
  task = {boxes: task.boxes.map((b, k) => ({...b, pictures: per[k].slice(0, limits.examples), at: 0})), queries: queries.slice(0, limits.queries), at: 0};
  if (!task.queries.length) task.queries = [{src: null, label: null}];
  show(); changed();
};

$("undo").onclick = () => { if (past.length) { task = JSON.parse(past.pop()); show(); changed(); } };
$("clear").onclick = () => { remember(); task = fresh(); show(); changed(); };
$("more").onclick = () => {
  remember();
  const names = new Set(task.boxes.map(b => b.name));
  let n = task.boxes.length + 1;
  while (names.has(`class ${n}`)) n++;
  task.boxes.push({name: `class ${n}`, pictures: [null], at: 0});
  show();
};
$("save").onclick = () => {
  const {classes, queries} = filled();
  const whole = {classes, queries: queries.map(q => q.src), labels: queries.map(q => q.label)};
  download("task.json", new Blob([JSON.stringify(whole)], {type: "application/json"}));
};
$("open").onclick = () => ask(list => addFiles(list, toQuery));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => { event.preventDefault(); addFiles([...event.dataTransfer.files], toQuery); });
document.addEventListener("keydown", event => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.tagName !== "INPUT") { event.preventDefault(); $("undo").click(); }
});

// ---- begin
try {
  ({learners, limits, pages} = await (await send("/api/learners")).json());
  const dealing = learners.map((one, i) => [one, i]).filter(([one]) => one.adapts);
  $("from").replaceChildren(...dealing.map(([one, i]) => make("option", {value: i}, one.data)));
  const kinds = new Set(dealing.map(([one]) => one.data));
  $("whose").hidden = kinds.size < 2;
  $("deal").disabled = !dealing.length;
  $("training").hidden = Boolean(window.still);
} catch (error) { problem(error.message); }
show();
adapt();
