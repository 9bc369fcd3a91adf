"""What pictures say in words."""

from matplotlib.figure import Figure


def words_of(figure: Figure) -> str:
    """Everything a figure says in words."""
    legends = [legend for axes in figure.axes if (legend := axes.get_legend())]
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        labels = [label.get_text() for label in axes.get_yticklabels()]
        parts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *labels]
    for legend in [*figure.legends, *legends]:
        parts += [text.get_text() for text in legend.get_texts()]
    return "\n".join(parts)
