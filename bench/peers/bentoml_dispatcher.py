#!/usr/bin/env python3
"""Runs BentoML's own CorkDispatcher in virtual time and writes down what it does.

  git clone https://github.com/bentoml/BentoML && git -C BentoML checkout 32230a5
  python3 bench/peers/bentoml_dispatcher.py BentoML/src/bentoml > tests/golden/batching/bentoml.txt

Needs the packages attrs and numpy. The dispatcher's file runs unchanged, on an event loop whose clock
jumps to the next event; no other part of BentoML is loaded. peer_policies_test runs the same arrivals
through our copy of its rule (BentoPolicy) and wants the same batches at the same times.

Of each trace: its name; its numbers, as in TRACES below; how many batches ran and how many requests
were cancelled; of each batch its start in ns and its size. A batch of n, the k-th, takes
(base + slope n) (900 + draw k) / 1000 ns, with draws of 0 to 199 from the generator below.
"""
import asyncio
import importlib.util
import pathlib
import selectors
import sys
import types

START = 1000.0  # s, of the virtual clock
MASK = (1 << 64) - 1


class Draws:
    """Knuth's MMIX generator."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 33) % n


class JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, time passes."""

    def __init__(self):
        super().__init__()
        self.now = START

    def select(self, timeout=None):
        if timeout is not None and timeout > 0:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)
        self._clock_resolution = 1e-12

    def time(self):
        return self.jumping.now


def load_dispatcher(folder, clock):
    """bentoml/_internal/marshal/dispatcher.py, told the time by `clock`."""
    internal = pathlib.Path(folder) / "_internal"
    for name in ("real", "real.utils", "real.marshal", "starlette"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["real.utils"].is_async_callable = asyncio.iscoroutinefunction
    unused = types.ModuleType("starlette.concurrency")
    unused.run_in_threadpool = None  # only for callbacks that are not async
    sys.modules["starlette.concurrency"] = unused

    def load(name, path):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        module.time = types.SimpleNamespace(time=clock)
        return module

    load("real.utils.alg", internal / "utils" / "alg.py")
    return load("real.marshal.dispatcher", internal / "marshal" / "dispatcher.py")


def nanoseconds(seconds):
    return round((seconds - START) * 1e9)


def run(folder, objective_us, max_batch, base, slope, seed, arrivals):
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    module = load_dispatcher(folder, loop.time)
    draws, batches, cancelled = Draws(seed), [], [0]

    async def main():
        dispatcher = module.CorkDispatcher(objective_us / 1000, max_batch, fallback=lambda: None,
                                           get_batch_size=lambda _: 1)

        async def model(batch):
            batches.append((nanoseconds(loop.time()), len(batch)))
            await asyncio.sleep((base + slope * len(batch)) * (900 + draws.below(200)) // 1000 * 1e-9)
            return batch

        serve = dispatcher(model)

        async def request(at):
            await asyncio.sleep(START + at * 1e-9 - loop.time())
            answer = await serve(at)
            cancelled[0] += answer is None

        await asyncio.gather(*(request(at) for at in arrivals))
        dispatcher.shutdown()

    loop.run_until_complete(main())
    return batches, cancelled[0]


def arrivals_of(seed, count, gap_ns, burst):
    """Bursts at random gaps; within a burst a tenth of a millisecond or less between two."""
    draws, now, times = Draws(seed), 0, []
    while len(times) < count:
        now += 1 + draws.below(2 * gap_ns)
        for _ in range(1 + draws.below(2 * burst - 1)):
            now += 1 + draws.below(100_000)
            times.append(now)
    return times[:count]


# No time is a whole number of milliseconds: at the very tick a double could say this or that.
# name, objective us, largest batch, base ns, slope ns, arrivals: count, mean gap ns, mean burst
TRACES = [
    ("one by one, slow", 100_300, 32, 4_000_037, 350_003, 120, 40_000_000, 1),
    ("one by one, busy", 100_300, 32, 4_000_037, 350_003, 1500, 1_500_000, 1),
    ("bursts of 12", 100_300, 32, 8_000_037, 150_003, 1500, 12_000_000, 12),
    ("bursts of 40, batches of 8", 60_300, 8, 3_000_037, 500_003, 1200, 60_000_000, 40),
    ("linear, too much", 50_300, 64, 300_037, 900_003, 1500, 6_000_000, 8),
    ("an objective that nothing meets", 5_300, 16, 9_000_037, 200_003, 300, 4_000_000, 3),
    ("long enough to learn anew", 100_300, 32, 6_000_037, 300_003, 3000, 30_000_000, 6),
]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for seed, (name, *numbers) in enumerate(TRACES):
        objective, most, base, slope, count, gap, burst = numbers
        arrivals = arrivals_of(100 + seed, count, gap, burst)
        batches, cancelled = run(sys.argv[1], objective, most, base, slope, 200 + seed, arrivals)
        print(name)
        print(*numbers)
        print(len(batches), cancelled)
        print("\n".join(f"{start} {size}" for start, size in batches))


if __name__ == "__main__":
    main()
