"""Open a page on which runs adapt to what is drawn, or write it as files."""

from .console import note, say
from .options import DATA_ROOT, ONNXRUNTIME_WEB, option

OPTIONS = (
    option("what", nargs="+", metavar="RUN", help="runs trained on pictures, and predictors FILE.safetensors beside "
           "them"),
    option("--host", default="127.0.0.1", help="the address to listen at: this machine alone unless given; 0.0.0.0 is "
           "every address, and whoever reaches it may use it"),
    option("--port", type=int, default=8765, help="its port (8765); 0 takes a free one"),
    option("--static", metavar="DIR", help="write the page of one metric learner's RUN into a folder instead: it "
           "adapts in the browser, without a server"),
    ONNXRUNTIME_WEB,
    DATA_ROOT,
)  # fmt: skip


def run(args) -> None:
    try:
        import uvicorn
        from fastapi import FastAPI  # noqa: F401
    except ImportError:
        raise ValueError("`metaloop serve` needs metaloop[page]: pip install 'metaloop[page]'.") from None
    import socket
    import sys

    from ..page.app import LOCAL, app
    from ..page.shown import load, warm
    from .data import pool_of

    if args.static is not None:
        return _write(args)
    if not 0 <= args.port < 2**16:
        raise ValueError(f"--port {args.port}: expected 0 to {2**16 - 1}.")
    learners = [load(what, lambda run: pool_of(run, None)[1]) for what in args.what]
    for one in learners:
        warm(one)
    web = _runtime(args.onnxruntime_web)
    hosts = LOCAL if args.host in LOCAL or args.host == "::1" else ("*",)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    with socket.create_server((args.host, args.port), family=family) as listening:
        port = listening.getsockname()[1]
        if hosts == ("*",):
            note("metaloop: whoever reaches this address may use the page")
        say(f"the page: http://{f'[{args.host}]' if ':' in args.host else args.host}:{port}/  (Ctrl-C ends it)")
        sys.stdout.flush()
        config = uvicorn.Config(app(learners, hosts=hosts, web=web), log_level="warning", timeout_keep_alive=10,
                                limit_concurrency=None, backlog=512)  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])


def _write(args) -> None:
    from .. import exported
    from ..page.shown import Trained
    from ..page.static import build
    from .data import pool_of

    if len(args.what) > 1:
        raise ValueError(f"serve: --static shows one run, and {len(args.what)} are named.")
    web = exported.runtime(args.onnxruntime_web, "serve: --static")
    written = build(Trained(args.what[0], lambda run: pool_of(run, None)[1]), args.static, web)
    say(f"{written[0]}: open it in a browser; {sum(p.stat().st_size for p in written) / 1e6:.1f} MB in all")


def _runtime(given: str | None):
    """onnxruntime-web's folder; None if none is given or found, or predictors cannot be written for it."""
    from .. import exported

    try:
        exported.check_onnx()
        return exported.runtime(given, "serve: --onnxruntime-web")
    except ValueError:
        if given is not None:
            raise
        return None
