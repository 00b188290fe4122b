// The server's place, in a page without one: F runs here, by onnxruntime-web. RUN is what was written of the run.

const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
let session = null;

async function started() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = bytes(RUN.wasm).buffer;
  ort.env.wasm.wasmPaths = {mjs: URL.createObjectURL(new Blob([bytes(RUN.glue)], {type: "text/javascript"}))};
  return ort.InferenceSession.create(bytes(RUN.model));
}

async function stacked(pictures) {
  const [C, H, W] = RUN.shape, x = new Uint8Array(pictures.length * C * H * W);
  for (const [i, src] of pictures.entries()) {
    const img = new Image();
    img.src = src;
    await img.decode();
    x.set(pixels(img, RUN.shape), i * C * H * W);
  }
  return new ort.Tensor("uint8", x, [pictures.length, C, H, W]);
}

const table = t => Array.from({length: t.dims[0]}, (_, i) => Array.from(t.data.slice(i * t.dims[1], (i + 1) * t.dims[1])));

async function adapted({classes, queries}) {
  const filled = classes.filter(c => c.pictures.length), names = filled.map(c => c.name);
  const twice = names.find((name, k) => names.indexOf(name) < k);
  if (twice !== undefined) throw new Error(`two classes are called '${twice}'.`);
  const y = filled.flatMap((c, k) => c.pictures.map(() => k)), asked = queries.length ? queries : [filled[0].pictures[0]];
  session ??= started();
  const running = await session, support = await stacked(filled.flatMap(c => c.pictures)), query = await stacked(asked);
  const labels = new ort.Tensor("int64", BigInt64Array.from(y, BigInt), [y.length]), began = performance.now();
  const told = await running.run({support, labels, queries: query});
  const ms = Math.round(10 * (performance.now() - began)) / 10, n = queries.length;
  const plane = {support: table(told.of_support), y, queries: table(told.of_queries).slice(0, n),
    prototypes: told.of_prototypes ? table(told.of_prototypes).slice(0, names.length) : []};
  return {answers: [{classes: names, p: table(told.p).slice(0, n).map(p => p.slice(0, names.length)), ms, plane}]};
}

function mixed(list) {
  const all = [...list];
  for (let i = all.length - 1; i > 0; i--) { const j = Math.floor(Math.random() * (i + 1)); [all[i], all[j]] = [all[j], all[i]]; }
  return all;
}

function dealt(ask) {
  const [ways, shots, queries] = ["ways", "shots", "queries"].map(name => +ask.get(name));
  if (ways < 2 || ways > RUN.unseen.length) throw new Error(`this page holds pictures of ${RUN.unseen.length} classes.`);
  if (shots < 1 || shots + queries > RUN.unseen[0].length) throw new Error(`this page holds ${RUN.unseen[0].length} pictures of each class, ${queries} of which are asked about.`);
  const chosen = mixed(RUN.unseen).slice(0, ways).map(mixed);
  const asked = mixed(chosen.flatMap((c, k) => c.slice(shots, shots + queries).map(src => [src, k])));
  return {classes: chosen.map((c, k) => ({name: `class ${k + 1}`, pictures: c.slice(0, shots)})),
    queries: asked.map(([src]) => src), labels: asked.map(([, k]) => k)};
}

window.still = async (path, body) => {
  const {pathname, searchParams} = new URL(path, "http://still/");
  const told = pathname === "/api/learners" ? {learners: [RUN.about], limits: RUN.limits}
    : pathname === "/api/adapt" ? await adapted(body)
    : dealt(searchParams);
  return {json: async () => told};
};
