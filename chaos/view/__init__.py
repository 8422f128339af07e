"""What somebody sees of a laboratory while it runs: a screen on a terminal, else lines."""

from chaos.view.terminal import can_draw
from chaos.view.view import View, open_view

__all__ = ["View", "can_draw", "open_view"]
