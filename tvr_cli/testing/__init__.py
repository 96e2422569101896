"""Contracts that a plug-in must hold, shipped: plain functions that raise with a sentence, for any test runner or none.

`method.check("mypackage.mymethod")` runs all of a method's and returns what came out, one `Check` each; so does
`tvr methods check mypackage.mymethod`. A single one is a function of the name: `method.a_score_depends_on_…(name)`.
"""
