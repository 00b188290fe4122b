"""The page's server. What it may be asked is JSON, limited and checked; what goes wrong is one sentence of JSON."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from . import asked
from .making import Busy, Pages
from .shown import Shown, Trained
from .training import Taken, Turn

AT_ONCE = 16  # requests whose bodies are held; more wait, unread, in the order in which they came
PATIENCE = 20.0  # seconds for a body to come in
LOCAL = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
log = logging.getLogger("metaloop.page")
Id = Annotated[int, Path(ge=0, le=10_000)]
Number = Annotated[int, Path(ge=0, lt=2**31)]
SCHEMA = asked.Asked.model_json_schema(ref_template="#/components/schemas/{model}")
PARTS = SCHEMA.pop("$defs")  # which OpenAPI keeps in another place
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": what, "content": {"application/json": {"schema": {
        "type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}}}}
    for code, what in (
        (403, "from another origin"), (404, "no such learner"), (408, "the body did not come in time"),
        (409, "another one's turn"), (413, "too large"), (415, "no JSON"), (422, "not a task"),
        (429, "too many of these at once"),
    )
}  # fmt: skip


def app(
    learners: Sequence[Shown], *, hosts: Sequence[str] = LOCAL, web: FilePath | None = None
) -> FastAPI:
    """The page of these learners. hosts: the names by which it may be reached, "*" for any. web: onnxruntime-web's
    folder, where predictors are also to be had as pages."""
    worker = ThreadPoolExecutor(1, thread_name_prefix="adapts")  # torch has its own threads; memory stays bounded
    places, turn, kept = asyncio.Semaphore(AT_ONCE), Turn(), asked.Kept()
    pages = None if web is None else Pages(web)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        worker.shutdown(wait=True, cancel_futures=True)

    page = FastAPI(title="metaloop", docs_url=None, redoc_url=None, lifespan=lifespan)

    def compute(work: Callable, *args: Any):
        return asyncio.get_running_loop().run_in_executor(worker, lambda: work(*args))

    async def on_task(request: Request, work: Callable[[asked.Given, asked.Asked], Any]) -> Any:
        """work(pictures, asked), once it is this request's turn."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body should be JSON: content-type application/json.")
        async with places:
            try:
                body = await asyncio.wait_for(asked.limited(request.stream()), PATIENCE)
            except TimeoutError:
                raise HTTPException(408, f"the body did not come in within {PATIENCE:g} seconds.") from None

            def whole():
                task = asked.parse(body)
                return work(asked.pictures(task, kept), task)

            return await compute(whole)

    def one(number: int) -> Trained:
        found = learners[number] if number < len(learners) else None
        if not isinstance(found, Trained):
            raise HTTPException(404, f"there is no learner {number} that adapts.")
        return found

    @page.get("/", include_in_schema=False)
    def html() -> Response:
        return _sent("page.html", "text/html")

    @page.get("/page.css", include_in_schema=False)
    def css() -> Response:
        return _sent("page.css", "text/css")

    @page.get("/page.js", include_in_schema=False)
    def js() -> Response:
        return _sent("page.js", "text/javascript")

    @page.get("/api/learners")
    async def about() -> dict[str, Any]:
        """What is loaded, and the limits."""
        limits = {"classes": asked.CLASSES, "examples": asked.EXAMPLES, "queries": asked.QUERIES, "bytes": asked.BODY}
        return {"learners": [one.about() for one in learners], "limits": limits, "pages": pages is not None}

    @page.post("/api/adapt", openapi_extra=BODY, responses=ERRORS)
    async def adapt(request: Request) -> dict[str, Any]:
        """All learners adapted to a task, or those that are named, and their answers to its queries."""

        def answers(given: asked.Given, task: asked.Asked) -> dict[str, Any]:
            named = range(len(learners)) if task.learners is None else dict.fromkeys(task.learners)
            if unknown := [i for i in named if i >= len(learners)]:
                raise ValueError(f"learners: there is no learner {unknown[0]}; {len(learners)} are loaded.")
            return {"answers": [_answer(learners[i], given, task) for i in named]}

        return await on_task(request, answers)

    @page.post("/api/predictor/{number}", openapi_extra=BODY, responses=ERRORS)
    async def predictor(request: Request, number: Id) -> Response:
        """One learner's adapted predictor as a file, which `metaloop predict` takes."""
        run = one(number)
        data = await on_task(request, lambda given, _: run.file(given))
        named = {"content-disposition": 'attachment; filename="predictor.safetensors"'}
        return Response(data, media_type="application/octet-stream", headers=named)

    @page.post("/api/page/{number}", openapi_extra=BODY, responses=ERRORS)
    async def own_page(request: Request, number: Id) -> Response:
        """One learner's adapted predictor as a page that runs in a browser, without a server or a network."""
        run = one(number)
        if pages is None:
            raise HTTPException(404, "pages need onnxruntime-web, which `metaloop serve` was not given.")
        data = await pages.made(await on_task(request, lambda given, _: run.file(given)))
        return Response(data, media_type="application/octet-stream",
                        headers={"content-disposition": 'attachment; filename="predictor.html"'})  # fmt: skip

    @page.post("/api/training", responses=ERRORS)
    async def begin() -> dict[str, Any]:
        """A new meta-training of a small learner on glyphs, if no other goes on."""
        return await compute(turn.begin)

    @page.post("/api/training/{number}", openapi_extra=BODY, responses=ERRORS)
    async def train(request: Request, number: Number) -> dict[str, Any]:
        """A few more meta-steps of it, and its answers to a task's queries; the first time, those of random weights."""
        return await on_task(request, lambda given, _: turn.of(number)(given))

    @page.delete("/api/training/{number}", responses=ERRORS)
    async def end(number: Number) -> dict[str, Any]:
        """Stop it."""
        return await compute(turn.end, number)

    @page.get("/api/task/{number}", responses=ERRORS)
    async def task(
        number: Id,
        ways: Annotated[int, Query(ge=2, le=asked.CLASSES)] = 5,
        shots: Annotated[int, Query(ge=1, le=10)] = 1,
        queries: Annotated[int, Query(ge=1, le=5)] = 2,
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> dict[str, Any]:
        """A task of the learner's data, of classes that it was not trained on; queries are of each class."""
        dealt = await compute(one(number).deal, ways, shots, queries, seed)
        boxes = [{"name": f"class {k + 1}", "pictures": [*map(asked.png, x)]} for k, x in enumerate(dealt["support"])]
        return {"classes": boxes, "queries": [*map(asked.png, dealt["query"])], "labels": dealt["labels"]}

    @page.get("/api/sure/{number}", responses=ERRORS)
    async def sure(
        number: Id,
        ways: Annotated[int, Query(ge=2, le=asked.CLASSES)] = 5,
        shots: Annotated[int, Query(ge=1, le=asked.EXAMPLES)] = 1,
    ) -> dict[str, Any]:
        """A look at more unseen tasks of that size, from which sets and strangers are told once they are enough."""
        return await compute(one(number).sure(ways, shots).look)

    @page.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException):
        plain = {404: "there is nothing here by that name.", 405: "that cannot be done here."}
        told = str(error.detail)
        sentence = plain.get(error.status_code, told) if told.istitle() else told
        return _error(error.status_code, sentence, error.headers)  # among them what is allowed, of a 405

    @page.exception_handler(RequestValidationError)
    async def odd(_: Request, error: RequestValidationError):
        first = error.errors()[0]
        return _error(422, f"{first['loc'][-1]}: {first['msg']}.")

    @page.exception_handler(asked.TooMuch)
    async def large(_: Request, error: ValueError):
        return _error(413, str(error))

    @page.exception_handler(Taken)
    async def taken(_: Request, error: ValueError):
        return _error(409, str(error))

    @page.exception_handler(Busy)
    async def busy(_: Request, error: ValueError):
        return _error(429, str(error))

    @page.exception_handler(ValueError)
    async def wrong(_: Request, error: ValueError):
        return _error(422, str(error))

    @page.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect):
        return _error(400, "the body did not come in whole.")

    @page.exception_handler(Exception)
    async def ours(_: Request, error: Exception):
        return _error(500, "the server made a mistake, which it has logged.")

    page.openapi().setdefault("components", {}).setdefault("schemas", {}).update(PARTS)
    page.add_middleware(_Guard, hosts=tuple(hosts))
    return page


class _Guard:
    """Lets in who asks by a name of ours and comes from our own page, or from none."""

    def __init__(self, app: Any, hosts: tuple[str, ...]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name not in self.hosts and "*" not in self.hosts:
            return await _error(403, "this page is not to be reached by that name.")(scope, receive, send)
        foreign = origin is not None and origin.partition("://")[2] != host
        if scope["method"] not in ("GET", "HEAD") and (foreign or headers.get("sec-fetch-site") == "cross-site"):
            return await _error(403, "this comes from another page.")(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, with_headers)


def _answer(one: Shown, given: asked.Given, task: asked.Asked) -> dict[str, Any]:
    """What one learner shows; an error of its own is its own."""
    try:
        return one.answer(given, task)
    except ValueError as error:
        return {"error": str(error)}
    except Exception:  # a learner may be anyone's
        log.exception("%s failed", one.name)
        return {"error": "it failed on this task; the server has logged why."}


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


def _sent(name: str, kind: str) -> Response:
    return Response((files("metaloop.page") / name).read_bytes(), media_type=kind)
