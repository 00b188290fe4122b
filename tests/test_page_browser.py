"""The page in a real browser: drawn on, dropped on, slid, saved and opened again."""

import base64
import json
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny import make_run

import metaloop as ml
from metaloop.recipes.stored import load_predictor

pytest.importorskip("fastapi", reason="needs metaloop[page]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SHOTS = os.environ.get("METALOOP_SCREENSHOTS")  # a folder, to look at them


@contextmanager
def served(learners):
    """The page on a free port."""
    import socket

    import uvicorn

    from metaloop.page.app import app

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app(learners), log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)


def draw(page, box, *lines):
    """Strokes by the mouse, in parts of the box's side."""
    canvas = page.locator("canvas").nth(box)
    canvas.scroll_into_view_if_needed()
    at = canvas.bounding_box()
    place = lambda p: (at["x"] + p[0] * at["width"], at["y"] + p[1] * at["height"])
    for first, *rest in lines:
        page.mouse.move(*place(first))
        page.mouse.down()
        for p in rest:
            page.mouse.move(*place(p), steps=4)
        page.mouse.up()
    still(page)


def until(page, what, seconds=60):
    """Until an expression is true there. By looks: `wait_for_function` evaluates a string, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(what):
        assert time.monotonic() < end, what
        page.wait_for_timeout(20)


def still(page):
    """Until the newest task is answered."""
    until(page, "document.body.dataset.state === 'still'")


def best(page, learner=0):
    return page.locator(f"#learner-{learner} .bars .best .who").inner_text()


DOWN, ACROSS = [(0.5, 0.15), (0.5, 0.85)], [(0.15, 0.5), (0.85, 0.5)]
LUMINANCE = """() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
  const found = [];
  for (const e of document.querySelectorAll("p, button, label, legend, h1, h2, h3, figcaption, .who, .p, .number")) {
    if (!e.innerText?.trim() || e.disabled) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${e.tagName} ${e.innerText.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return found;
}"""  # contrast as WCAG 2 has it: 4.5 for text
NAMELESS = """() => [...document.querySelectorAll("button, input:not([hidden]), select, canvas, svg")].filter(e =>
  !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.innerText?.trim() || e.labels?.length))
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
def test_in_a_browser(tmp_path, monkeypatch):
    from metaloop.cli.data import pool_of
    from metaloop.page.shown import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ml.engine.session.calibrate.__kwdefaults__, "tasks", 2)
        for name, recipe in (("proto", "protonet-glyphs"), ("maml", "maml-glyphs")):
            make_run(tmp_path / name, recipe, budget="smoke")
    learners = [load(str(tmp_path / name), lambda run: pool_of(run, None)[1]) for name in ("proto", "maml")]
    with served(learners) as address, playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_CAMERA])
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360)):
            with looked_at(browser, address, scheme, width, f"page-{scheme}-{width}") as page:
                if width == 1280 and scheme == "light":
                    used(page, tmp_path)
                else:
                    draw(page, 0, DOWN)
                    draw(page, 1, ACROSS)
                    draw(page, 3, DOWN)
                    if width == 360:  # a finger's tap is a dot
                        page.locator("canvas").nth(2).tap()
                        until(page, "document.querySelectorAll('#learner-0 .bars li').length === 3")
                        still(page)
                assert best(page) == "class 1"
        monkeypatch.setattr("metaloop.page.shown.DESCENT", 5)
        with served(others(tmp_path)) as other, looked_at(browser, other, "dark", 360, "views") as page:
            draw(page, 0, DOWN)
            draw(page, 1, ACROSS)
            draw(page, 3, ACROSS)
            until(page, "document.querySelectorAll('#learner-0 .looks li').length === 2")
            assert page.locator("#learner-0 .looks img").nth(1).get_attribute("alt") == "a picture of class 2"
            assert page.locator("#learner-1 .few img").count() == 10
            assert page.locator("#learner-2 polyline").count() == 2
            assert "5 steps from the same start" in page.inner_text("#learner-2 figcaption")
            dots = "[...document.querySelectorAll('#learner-3 .dots')].map(i => [i.naturalWidth, i.naturalHeight])"
            assert page.evaluate(dots) == [[16, 8], [16, 8], [17, 16]]  # read, said, attended to
        browser.close()


@contextmanager
def looked_at(browser, address, scheme, width, name):
    """A page in which nothing goes wrong, nothing comes from elsewhere, all can be read and has a name."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, permissions=["camera"],
                                  has_touch=width == 360)  # fmt: skip
    page, wrong, abroad = context.new_page(), [], []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: abroad.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.wait_for_selector("canvas")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(LUMINANCE) == []
    assert page.evaluate(NAMELESS) == []
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)
    assert (wrong, abroad) == ([], [])
    context.close()


def others(home):
    """Runs that show what they attend to, what they draw, how they descend."""
    from metaloop.page.shown import load

    pool, kinds = ml.tasks.glyphs(), {"attends": "matching-omniglot-1shot", "draws": "homoencoder-omniglot"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ml.engine.session.calibrate.__kwdefaults__, "tasks", 2)
        for name, recipe in kinds.items():
            make_run(home / name, recipe, pool, budget="smoke")
        make_run(home / "rule", "lstm-optimizer-quadratic", budget="smoke")
        make_run(home / "says", "ntm-copy", budget="smoke")
    return [load(str(home / name), lambda run: pool) for name in (*kinds, "rule", "says")]


def used(page, tmp_path):
    """Every way to a task and back. Boxes 0 to 2 are classes, 3 is the query."""
    draw(page, 0, DOWN)
    assert "at least two boxes" in page.inner_text("#status")
    draw(page, 1, ACROSS)
    draw(page, 3, ACROSS)
    assert best(page) == "class 2"
    assert "proto says class 2" in page.inner_text("#status")
    # a query that is drawn by keys, after Delete
    page.locator("canvas").nth(3).focus()
    page.keyboard.press("Delete")
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    for _ in range(16):
        page.keyboard.press("Shift+ArrowDown")
    until(page, "document.querySelector('#learner-0 .bars .best .who')?.innerText === 'class 1'")
    ink = "c => { const x = c.getContext('2d').getImageData(84, 0, 1, 168).data; let n = 0; " \
          "for (let i = 0; i < x.length; i += 4) n += x[i] < 128; return n; }"  # fmt: skip
    assert page.locator("canvas").nth(3).evaluate(ink) > 128  # one stroke, though Shift was let go at each step
    # a file, dropped on the third class
    file = page.locator("canvas").nth(0).evaluate("c => c.toDataURL()").partition(",")[2]
    dropped = page.evaluate_handle(
        """data => { const t = new DataTransfer(), bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        t.items.add(new File([bytes], "a.png", {type: "image/png"})); return t; }""", file)  # fmt: skip
    page.locator(".box").nth(2).dispatch_event("drop", {"dataTransfer": dropped})
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 3")
    page.click("#undo")
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 2")
    still(page)
    # a photograph
    page.locator(".box").nth(2).get_by_text("Camera").click()
    until(page, "document.querySelector('dialog video')?.videoWidth > 0")
    page.get_by_text("Take picture").click()
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 3")
    assert page.locator("dialog").count() == 0
    page.click("#undo")
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 2")
    still(page)
    # while nothing is drawn, unseen tasks are looked at, and sets are told
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaloop.page.sure.TASKS", 9)
        page.locator("canvas").nth(3).press("Delete")
        until(page, "document.querySelector('#learner-1')?.innerText.includes('Draw a query')")
        page.click("#undo")
        until(page, "document.querySelector('#learner-1')?.innerText.includes('unseen tasks of its data, of 2')")
        assert "Set that holds the right class nine times in ten: " in page.inner_text("#learner-0")
        still(page)
    # the slider: before any step the weights have not moved, and the loss is larger than at the end
    slider = page.get_by_label("inner steps of maml")
    loss = lambda: float(page.locator("#learner-1 figcaption").first.inner_text().rpartition(" ")[2].rstrip("."))
    slider.focus()
    page.keyboard.press("Home")
    assert page.inner_text("#learner-1 .steps") == "0 inner steps"
    first = loss()
    page.keyboard.press("End")
    assert page.inner_text("#learner-1 .steps") == "10 inner steps"
    assert loss() < first
    # the task as a file, and back
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "task.json")
    task = json.loads((tmp_path / "task.json").read_text())
    assert [len(c["pictures"]) for c in task["classes"]] == [1, 1, 0]
    base64.b64decode(task["queries"][0].partition(",")[2], validate=True)
    before = page.locator("#learner-0 .bars").inner_text()
    page.click("#clear")
    until(page, "!document.querySelector('#learner-0 .bars')")
    with page.expect_file_chooser() as chooser:
        page.click("#open")
    chooser.value.set_files(tmp_path / "task.json")
    until(page, "document.querySelector('#learner-0 .bars')")
    still(page)
    assert page.locator("#learner-0 .bars").inner_text() == before
    # the predictor as a file
    with page.expect_download() as saved:
        page.click("#learner-0 button")
    saved.value.save_as(tmp_path / "f.safetensors")
    assert load_predictor(tmp_path / "f.safetensors")[1]["classes"] == ["class 1", "class 2"]
    # an unseen task; its queries turned, shuffled, swapped, undone
    page.fill("#ways", "3")
    page.click("#deal")
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 3")
    still(page)
    assert "of 6 labelled queries" in page.inner_text("#learner-0")
    for name, classes in (("rotate", 3), ("noise", 3), ("shuffle", 3), ("swap", 3)):
        page.click(f"#{name}")
        still(page)
        assert page.locator("#learner-0 .bars li").count() == classes, name
        assert page.inner_text("#problem") == ""
    assert "of 3 labelled queries" in page.inner_text("#learner-0")
    for _ in range(5):
        page.click("#undo")
    still(page)
    until(page, "document.querySelectorAll('#learner-0 .bars li').length === 2")
    still(page)
    # meta-training: stopped, and begun anew to its end
    trained = lambda: page.inner_text("#trained")
    page.click("#train")
    until(page, "document.querySelector('#trained .line')")
    page.click("#halt")
    until(page, "document.querySelector('#trained')?.innerText.includes('stopped')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaloop.page.training.STEPS", 10)
        page.click("#train")
        until(page, "document.querySelector('#trained').innerText.includes('10 of 10 meta-steps, done')")
    assert page.locator("#trained .bars li").count() == 2
    assert "Say what a query truly is" in trained()
    # what is no picture is told, and spoils nothing
    with page.expect_file_chooser() as chooser:
        page.click("#open")
    chooser.value.set_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    until(page, "document.querySelector('#problem').innerText.includes('x.png')")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
@pytest.mark.skipif("ONNXRUNTIME_WEB" not in os.environ, reason="needs onnxruntime-web: ONNXRUNTIME_WEB, its folder")
def test_without_a_server(tmp_path, monkeypatch, capsys):
    """The page of one run, from a disk and offline: the browser's F(S)(Q) is the library's."""
    pytest.importorskip("onnx", reason="needs metaloop[onnx]")
    from metaloop.cli import main
    from metaloop.cli.data import pool_of
    from metaloop.page import asked
    from metaloop.page.shown import Trained

    monkeypatch.setitem(ml.engine.session.calibrate.__kwdefaults__, "tasks", 2)
    lean = lambda shape, out=None, **how: ml.nn.mlp((784, 8, 3), **how)
    monkeypatch.setattr(ml.nn, "conv4", lean)  # since a graph of four convolutions takes its time to write
    make_run(tmp_path / "proto", "protonet-glyphs", budget="smoke")
    web = ["--onnxruntime-web", os.environ["ONNXRUNTIME_WEB"]]
    assert main(["serve", str(tmp_path / "proto"), "--static", str(tmp_path / "still"), *web]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        wrong = []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.goto((tmp_path / "still" / "index.html").as_uri())
        page.fill("#ways", "4")
        page.click("#deal")
        until(page, "document.querySelectorAll('#learner-0 .bars li').length === 4")
        still(page)
        assert (page.inner_text("#problem"), wrong) == ("", [])
        assert "labelled queries" in page.inner_text("#learner-0")
        assert page.is_hidden("#training")
        assert not page.locator("text=Download predictor").count()
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "task.json")
        task = json.loads((tmp_path / "task.json").read_text())
        told = page.evaluate("task => window.still('/api/adapt', task).then(r => r.json())", task)["answers"][0]
        page.fill("#ways", "20")
        page.fill("#shots", "30")
        page.evaluate("document.querySelector('#shots').removeAttribute('max')")
        page.click("#deal")
        until(page, "document.querySelector('#problem').innerText.includes('pictures of each class')")
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / "still.png", full_page=True)
        browser.close()
    body = asked.Asked(classes=task["classes"], queries=task["queries"])
    want = Trained(str(tmp_path / "proto"), lambda run: pool_of(run, None)[1]).answer(asked.pictures(body), body)
    np.testing.assert_allclose(told["p"], want["p"], atol=1e-4)
    for part in ("support", "queries", "prototypes"):
        np.testing.assert_allclose(told["plane"][part], want["plane"][part], atol=2e-3)
    assert main(["serve", str(tmp_path / "proto"), "--static", str(tmp_path), *web]) == 2
    assert "holds something else" in capsys.readouterr().err
