"""The arithmetic of scripts/versus: figures of runs, paired by round, as medians and order-statistic intervals."""

import dataclasses
import math
import statistics


@dataclasses.dataclass(frozen=True)
class Target:
    """What a median must reach: within [least, most]. By `reaching` the interval needs only to extend to that, while the
    median is in the range; by `every`, each round must be in the range."""

    least: float = -math.inf
    most: float = math.inf
    reaching: float | None = None
    every: bool = False

    def __str__(self):
        if self.least == self.most:
            text = f"= {self.least:g}"
        elif math.isinf(self.least):
            text = f"≤ {self.most:g}"
        elif math.isinf(self.most):
            text = f"≥ {self.least:g}"
        else:
            text = f"{self.least:g} to {self.most:g}"
        if self.reaching is not None:
            text += f", interval to {self.reaching:g}"
        return text + (" in each round" if self.every else "")

    def verdict(self, values):
        if self.every:
            return "met" if all(self.least <= value <= self.most for value in values) else "missed"
        interval = median_interval(values)
        if not interval:
            return "not decided"
        low, high, _ = interval
        if self.reaching is not None:
            return "met" if self.least <= statistics.median(values) <= self.most and high >= self.reaching else "missed"
        if self.least <= low and high <= self.most:
            return "met"
        return "missed" if high < self.least or low > self.most else "not decided"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a run: its column, and what of it is held against a target: its ratio to a rival's, or itself. `to`
    names the rival (default: the last contestant), `of` is what the names contain of those that it is shown for."""

    key: str
    column: str
    digits: int
    shown_as: str | None = None
    ratio: bool = True
    target: Target | None = None
    to: str | None = None
    of: str = ""


def median_interval(values):
    """The narrowest order-statistic interval of the median with at least 95 %, and its coverage: the number of values
    below the median is binomial, whatever their distribution. None below six."""
    values, n, best = sorted(values), len(values), None
    for rank in range(n // 2):
        outside = 2 * sum(math.comb(n, i) for i in range(rank + 1)) / 2**n
        if outside > 0.05:
            break
        best = values[rank], values[n - 1 - rank], 1 - outside
    return best


def compared(figure, runs, rival):
    """The values that `figure` is judged by, one per round that both have; `runs` and `rival` are by round."""
    if not figure.ratio:
        return [run[figure.key] for run in runs.values() if figure.key in run]
    both = [(run, rival[number]) for number, run in runs.items() if number in rival]
    return [a[figure.key] / b[figure.key] for a, b in both if figure.key in a and b.get(figure.key)]


def table(figures, contestants, rivals):
    """The lines of one case's table, and its verdicts. `contestants` is name -> round -> key -> value; those whose names
    are in `rivals` are not judged."""
    columns = [figure for figure in figures if figure.column]
    widths = [max(9, len(figure.column) + 2) for figure in columns]
    head = "".join(f"{figure.column:>{width}}" for figure, width in zip(columns, widths))
    shown = max([15, *(len(figure.shown_as) + 2 for figure in figures if figure.shown_as)])
    lines, verdicts = [f"{'':14}{head}   {'':<{shown}}{'median':>8}  interval"], []
    for name, runs in contestants.items():
        cells = ""
        for figure, width in zip(columns, widths):
            values = [run[figure.key] for run in runs.values() if figure.key in run]
            cells += f"{format(statistics.median(values), f'.{figure.digits}f') if values else '–':>{width}}"
        rows = []
        for figure in figures if name not in rivals else []:
            rival = contestants.get(figure.to or list(contestants)[-1], {})
            values = compared(figure, runs, rival) if figure.shown_as and figure.of in name else []
            if values:
                text, verdict = row(figure, values, shown)
                rows.append(text)
                verdicts += [verdict] if verdict else []
        lines += [f"{name:14}{cells}" + (rows[0] if rows else "")]
        lines += [" " * (14 + sum(widths)) + text for text in rows[1:]]
    return lines, verdicts


def row(figure, values, width):
    digits = 3 if figure.ratio else figure.digits
    text = f"   {figure.shown_as:<{width}}{statistics.median(values):>8.{digits}f}"
    interval = median_interval(values)
    if interval:
        text += f"  [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}] at {interval[2]:.1%}"
    else:
        text += "  none: needs 6 rounds"
    if not figure.target:
        return text, None
    verdict = figure.target.verdict(values)
    return f"{text}  target {figure.target}: {verdict}", verdict
