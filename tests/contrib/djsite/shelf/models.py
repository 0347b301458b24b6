from django.db import models


class Book(models.Model):
    pages = models.IntegerField(default=1)
    visits = models.IntegerField(default=0)

    class Meta:
        app_label = "shelf"


class Tag(models.Model):
    id = models.UUIDField(primary_key=True)

    class Meta:
        app_label = "shelf"
