"""A test of Django's own kind, for ``manage.py test``."""

import threading

from django.test import TestCase

from elk_coordinator.contrib.django.testing import run_coordinator
from tests.contrib.djsite.shelf.models import Book


class Case(TestCase):
    def test_the_settings_job_runs_in_this_thread_and_nothing_else_was_started(self):
        Book.objects.create(pk=1)
        self.assertEqual(run_coordinator().processed, 1)
        self.assertEqual(threading.enumerate(), [threading.main_thread()])
