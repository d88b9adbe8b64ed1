"""Draw the pictures of the examples: ``make pictures``.

Text and lines have a grey that can be read on light and on dark pages.
"""

from pathlib import Path

import images
import matplotlib as mpl
import model
import sweep
import training
import words
from matplotlib import pyplot as plt

from daskref import Client
from daskref.bench.flights import CARRIERS, HOURS

HERE = Path(__file__).parent
GREY, ORANGE, BLUE = "#7d8590", "#d9773a", "#4a8fd0"
STYLE = {
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"], GREY
    ),
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.figsize": (7.2, 3.2),
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "svg.hashsalt": "daskref",
}


def draw_sweep(client, axes):
    delays, _ = sweep.run(client)
    shown = axes.imshow(delays, cmap="YlOrRd", aspect="auto")
    axes.set_xticks(range(len(HOURS)), [f"{hour}:00" for hour in HOURS])
    axes.set_yticks(range(len(CARRIERS)), CARRIERS)
    axes.figure.colorbar(shown, label="delay, mean + 1 sd (minutes)")


def draw_model(client, axes):
    known, _ = model.run(client)
    axes.plot(model.NOISE, known, "o-", color=ORANGE)
    axes.set(xlabel="noise", ylabel="accuracy", ylim=(0, 1))


def draw_images(client, axes):
    stack, image, _, _ = images.run(client)
    axes.axis("off")
    titles = ("one frame", "64 frames, moved back and added")
    for number, (title, each) in enumerate(zip(titles, (stack[0], image), strict=True)):
        inset = axes.inset_axes([0.5 * number, 0, 0.49, 0.92])
        inset.imshow(each[:160, :230], cmap="gray", vmin=-20, vmax=60)
        inset.set_title(title, fontsize=10)
        inset.axis("off")


def draw_words(client, axes):
    _, counts, _ = words.run(client)
    names, numbers = zip(*reversed(counts.most_common(12)), strict=True)
    axes.barh(names, numbers, color=BLUE)
    axes.set_xlabel("in the standard library")


def draw_training(client, axes):
    errors, costs = training.run(client)
    rounds = range(1, len(errors) + 1)
    axes.bar(rounds, [cost["bytes_kept"] / 1e6 for cost in costs], color=BLUE)
    axes.set(xlabel="round", ylabel="MB by reference, in all")
    axes.yaxis.label.set_color(BLUE)
    right = axes.twinx()
    right.plot(rounds, errors, "o-", color=ORANGE)
    right.set(ylabel="error", ylim=(0, None))
    right.yaxis.label.set_color(ORANGE)


if __name__ == "__main__":
    with mpl.rc_context(STYLE):
        for draw in (draw_sweep, draw_model, draw_images, draw_words, draw_training):
            figure, axes = plt.subplots()
            with Client(
                n_workers=2,
                threads_per_worker=1,
                threshold="50 kB",
                dashboard_address=":0",
            ) as client:
                draw(client, axes)
            name = draw.__name__.removeprefix("draw_")
            figure.savefig(HERE / f"{name}.svg", metadata={"Date": None})
            print(HERE / f"{name}.svg")
