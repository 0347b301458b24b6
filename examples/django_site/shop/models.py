"""One table, with a column that is to be filled for every row there is."""

from django.db import models


class Order(models.Model):
    pieces = models.IntegerField()
    price = models.IntegerField()
    #: The column that came later.
    total = models.IntegerField(null=True)
    #: Counts how often a row was worked on: the proof of the example.
    visits = models.IntegerField(default=0)
