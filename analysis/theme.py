"""One look for every figure: a categorical palette, a diverging scale, a sequential scale and a Plotly template."""

import plotly.graph_objects as go

INK, MUTED, GRID, SURFACE = "#1F2933", "#7B8794", "#E7EAEE", "#FFFFFF"
FOCUS, REFERENCE, TARGET = "#D9622B", "#9AA5B1", "#2F6DB3"  # the model looked at, its population, what it should be
CATEGORICAL = (
    "#2F6DB3", "#D9622B", "#3B9C73", "#B23A6F", "#7A5BB0", "#C99A1D", "#3AA0AE", "#8A6A4A", "#E08BB0", "#5B6B7B",
)  # fmt: skip
DIVERGING = ((0.0, "#1E4E8C"), (0.25, "#7FA8D6"), (0.5, "#F6F6F4"), (0.75, "#E9A27F"), (1.0, "#A83A12"))
SEQUENTIAL = ((0.0, "#1B2A49"), (0.35, "#2F6DB3"), (0.7, "#5FBFA5"), (1.0, "#F2E28A"))
GREYS = ((0.0, "#000000"), (1.0, "#FFFFFF"))
FONT = "Inter, 'Source Sans', 'Source Sans Pro', 'Segoe UI', Helvetica, Arial, sans-serif"

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"font": {"size": 13, "color": INK}, "x": 0, "xref": "paper", "pad": {"b": 4}},
        "paper_bgcolor": SURFACE,
        "plot_bgcolor": SURFACE,
        "colorway": list(CATEGORICAL),
        "margin": {"l": 44, "r": 12, "t": 36, "b": 36},
        "xaxis": {
            "gridcolor": GRID,
            "linecolor": GRID,
            "zeroline": False,
            "automargin": True,
            "title": {"standoff": 6},
        },
        "yaxis": {
            "gridcolor": GRID,
            "linecolor": GRID,
            "zeroline": False,
            "automargin": True,
            "title": {"standoff": 6},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "bgcolor": SURFACE, "bordercolor": GRID},
        "colorscale": {"diverging": DIVERGING, "sequential": SEQUENTIAL},
        "bargap": 0.06,
    }
)


def figure(height: int = 320, title: str | None = None) -> go.Figure:
    """An empty figure in the house's look."""
    return go.Figure(layout={"template": TEMPLATE, "height": height, "title": {"text": title} if title else {}})


def styled(drawing: go.Figure, height: int, title: str | None = None) -> go.Figure:
    """A figure made elsewhere (sub-plots), brought into the house's look."""
    drawing.update_layout(template=TEMPLATE, height=height, title_text=title)
    drawing.update_annotations(font={"size": 12, "color": INK})
    return drawing


def translucent(colour: str, opacity: float) -> str:
    """A `#RRGGBB` colour as `rgba(…)`."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
