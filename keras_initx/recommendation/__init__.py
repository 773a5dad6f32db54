"""Findings about the start of a model, each with a line of code against it.

`recommend` makes a `case.Case` of a model and its data, which holds the
prediction and the measurement. The `rules` read a number off it, each a
function by itself, in the order of the table `rules.RULES`. For a number that
is a fault, `trial` carries out lines of code on copies of the model, until the
rule finds the number of a copy to be good.
"""
