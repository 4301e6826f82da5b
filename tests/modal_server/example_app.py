"""A small app that uses every part of Modal that this project uses. Tests run it on the local server."""

import mmap
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import modal

VOLUME = modal.Volume.from_name("example", create_if_missing=True, version=2)
image = modal.Image.debian_slim().env({"DATA": "/data", "COLOUR": "deep blue"}).add_local_python_source("beside")
app = modal.App("example", image=image)


@app.function()
def square(number: int) -> int:
    print(f"squaring {number}")
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


@app.function(timeout=20)
def count(number: int, pause_s: float = 0.0):
    for index in range(number):
        print(f"yielding {index}")
        yield index
        time.sleep(pause_s)


@app.function(max_containers=1)
def echo(payload: bytes) -> bytes:
    return payload


@app.function()
def environment(name: str) -> str | None:
    import beside

    assert beside.HERE
    return os.environ.get(name)


@app.function(volumes={"/data": VOLUME})
def write(name: str, text: str, commit: bool) -> None:
    (Path(os.environ["DATA"]) / name).write_text(text)
    if commit:
        VOLUME.commit()


@app.function(volumes={"/data": VOLUME})
def read(name: str, reload: bool = False, keep_open: str | None = None) -> str | None:
    with ExitStack() as stack:
        if keep_open:
            file = stack.enter_context((Path(os.environ["DATA"]) / keep_open).open("w+b"))
            file.write(b"content")
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0)
            file.close()
            stack.enter_context(mapped)
        if reload:
            VOLUME.reload()
    path = Path(os.environ["DATA"]) / name
    return path.read_text() if path.exists() else None


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0), volumes={"/data": VOLUME})
def fail_twice() -> int:
    marks = Path(os.environ["DATA"]) / "marks"
    marks.write_text((marks.read_text() if marks.exists() else "") + "x")
    VOLUME.commit()
    if len(marks.read_text()) < 3:
        raise RuntimeError("not yet")
    return len(marks.read_text())


@app.function(timeout=1)
def sleep(duration_s: float) -> str:
    time.sleep(duration_s)
    return "woke"


@app.function()
def nap(duration_s: float) -> str:
    print("napping")
    time.sleep(duration_s)
    return "rested"


@app.function()
def keep_temporary() -> str:
    return tempfile.mkdtemp()


@app.function()
def leave(code: int) -> None:
    os._exit(code)


@app.cls(max_containers=1)
@modal.concurrent(max_inputs=4)
class Greeter:
    name: str = modal.parameter(default="nobody")

    @modal.enter()
    def load(self) -> None:
        print(f"loading for {self.name}")
        self._greeting = f"hello {self.name}"
        self._num_inside = 0

    @modal.method()
    def greet(self) -> str:
        return self._greeting

    @modal.method()
    def meet(self, duration_s: float) -> int:
        """How many were inside at once, seen at the end."""
        self._num_inside += 1
        time.sleep(duration_s)
        return self._num_inside

    @modal.exit()
    def close(self) -> None:
        print(f"goodbye {self.name}")


@app.local_entrypoint()
def main() -> None:
    print("result", square.remote(3))
