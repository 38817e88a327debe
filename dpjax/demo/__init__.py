"""The demo: one recipe with and without privacy on generated clinic messages."""

from dpjax.demo.run import check as check
from dpjax.demo.run import execute as execute

__all__ = ["check", "execute"]
