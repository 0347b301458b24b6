"""A site for the tests of contrib/django. The database and the store come from the environment, or from fixtures."""

import os

SECRET_KEY = "for tests only"
DEBUG = False
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "tests.contrib.djsite.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "elk_coordinator.contrib.django",
    "tests.contrib.djsite.shelf",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TEST_SITE_DB", "unset"),
        "CONN_MAX_AGE": 60,
        "OPTIONS": {"timeout": 30},
    }
}
ELK_COORDINATOR = {
    "default": {
        "NAMESPACE": os.environ.get("TEST_SITE_NAMESPACE", "site"),
        "REDIS_URL": os.environ.get("TEST_SITE_REDIS", "redis://127.0.0.1:1/0"),
        "PROCESSOR": "tests.contrib.djsite.tasks.Double",
        "PLANNER": "tests.contrib.djsite.tasks.books",
        "OPTIONS": {
            "HEARTBEAT_INTERVAL": 1,
            "worker_ttl": 3,
            "leader_lock_expiry": 3,
            "allocation_interval": 0.2,
            "retry_backoff": (0.01, 0.02),
            "max_attempts": 1,
            "circuit_breaker": None,
            "metrics_enabled": False,
        },
    }
}
