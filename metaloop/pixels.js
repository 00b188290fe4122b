// One axis of a picture resized by Lanczos with three lobes, as Pillow does: rows of n numbers to rows of m.
function resized(rows, n, m) {
  const scale = Math.max(1, n / m), reach = 3 * scale, out = rows.map(() => new Float64Array(m));
  const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
  for (let j = 0; j < m; j++) {
    const center = (j + 0.5) * n / m;
    const from = Math.max(0, Math.floor(center - reach + 0.5)), to = Math.min(n, Math.floor(center + reach + 0.5));
    const w = [];
    for (let i = from; i < to; i++) {
      const x = (i - center + 0.5) / scale;
      w.push(Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
    }
    const sum = w.reduce((a, b) => a + b, 0);
    rows.forEach((row, r) => {
      let v = 0;
      for (let i = from; i < to; i++) v += row[i] * w[i - from] / sum;
      out[r][j] = Math.min(255, Math.max(0, Math.round(v)));
    });
  }
  return out;
}
const turned = (rows, n) => Array.from({ length: n }, (_, i) => Float64Array.from(rows, row => row[i]));

// A picture as bytes [C, H, W]: laid on white, grey where C is 1.
function pixels(image, [C, H, W]) {
  const canvas = document.createElement("canvas"), w = image.naturalWidth, h = image.naturalHeight;
  [canvas.width, canvas.height] = [w, h];
  const draw = canvas.getContext("2d");
  draw.fillStyle = "white";
  draw.fillRect(0, 0, w, h);
  draw.drawImage(image, 0, 0);
  const rgba = draw.getImageData(0, 0, w, h).data, x = new Uint8Array(C * H * W);
  for (let c = 0; c < C; c++) {
    const value = i => C > 1 ? rgba[i + c] : (19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 32768) >> 16;
    let rows = Array.from({ length: h }, (_, r) => Float64Array.from({ length: w }, (_, i) => value(4 * (r * w + i))));
    rows = turned(resized(turned(resized(rows, w, W), W), h, H), H);
    rows.forEach((row, r) => x.set(row, (c * H + r) * W));
  }
  return x;
}
