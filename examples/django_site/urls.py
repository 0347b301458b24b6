"""The admin, and with it the page of the coordinators at /admin/elk_coordinator/coordinators/."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
