"""An image stack: find how a camera has moved, and sharpen the picture.

Sixty-four noisy frames of one scene drift. Each task gets the whole stack, 67 MB, and
reads two frames of it: a mapped array costs what is read, not what there is. The
frames, moved back, are added up by a second round of tasks.
"""

import numpy as np

from daskref import Client, stats

FRAMES, SIDE = 64, 512


def make_stack():
    """Return frames of stars that drift, and how far they have."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    scene = np.zeros((SIDE, SIDE), "float32")
    for cy, cx, size in random.uniform(
        (40, 40, 1.5), (SIDE - 40, SIDE - 40, 3), (200, 3)
    ):
        box = np.s_[int(cy) - 30 : int(cy) + 30, int(cx) - 30 : int(cx) + 30]
        distance = (y[box] - cy) ** 2 + (x[box] - cx) ** 2
        scene[box] += 60 * np.exp(-distance / (2 * size**2))
    drift = random.integers(-1, 3, (FRAMES, 2)).cumsum(axis=0)
    stack = np.stack([np.roll(scene, tuple(each), (0, 1)) for each in drift])
    stack += random.normal(0, 12, stack.shape).astype("float32")
    return stack, drift - drift[0]


def movement(stack, number):
    """Return how far a frame is from the first one, by phase correlation."""
    first, frame = np.fft.rfft2(stack[0]), np.fft.rfft2(stack[number])
    found = np.fft.irfft2(frame * first.conj())
    moved = np.array(np.unravel_index(found.argmax(), found.shape))
    return (moved + SIDE // 2) % SIDE - SIDE // 2


def add_up(stack, movements, numbers):
    """Return the sum of some frames, moved back."""
    moved = (np.roll(stack[n], tuple(-movements[n]), (0, 1)) for n in numbers)
    return sum(moved, np.zeros((SIDE, SIDE)))


def noise(image):
    """Return the spread of the dark sky."""
    return float(1.48 * np.median(abs(image - np.median(image))))


def run(client):
    """Return the stack, the sharp image, how many movements are right, the cost."""
    stack, drift = make_stack()
    numbers = np.arange(FRAMES)
    futures = [client.submit(movement, stack, number) for number in numbers]
    movements = client.gather(futures)
    right = int((np.array(movements) == drift).all(axis=1).sum())
    parts = [
        client.submit(add_up, stack, movements, some)
        for some in np.array_split(numbers, 4)
    ]
    return stack, sum(client.gather(parts)) / FRAMES, right, stats(client)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        stack, image, right, counts = run(client)
        print(f"movements found: {right} of {FRAMES}")
        print(f"noise: {noise(stack[0]):.1f} in a frame, {noise(image):.1f} in the sum")
        print(f"by reference: {counts['bytes_kept'] / 1e6:.0f} MB")
