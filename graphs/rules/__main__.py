"""`python -m graphs.rules > docs/operators.md`: the page of covered operators."""

from graphs.rules import page

if __name__ == "__main__":
    print(page(), end="")
