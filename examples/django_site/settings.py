"""Settings of a small site, as small as they get. What concerns elk_coordinator: INSTALLED_APPS and ELK_COORDINATOR."""

import os
import tempfile

SECRET_KEY = "for this example only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "elk_coordinator.contrib.django",
    "shop",
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
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DB", os.path.join(tempfile.gettempdir(), "elk-django-site.db")),
        "CONN_MAX_AGE": 60,
        "OPTIONS": {"timeout": 30},
    }
}
ELK_COORDINATOR = {
    "default": {
        "NAMESPACE": os.environ.get("SHOP_NAMESPACE", "shop-totals"),
        "REDIS_URL": os.environ.get("ELK_REDIS_URL", "redis://localhost:6379/0"),
        "PROCESSOR": "shop.tasks.Totals",
        "PLANNER": "shop.tasks.orders",
        "OPTIONS": {
            "heartbeat_interval": 1,
            "worker_ttl": 3,
            "leader_lock_expiry": 3,
            "retry_backoff": (0.2, 1),
            "metrics_enabled": False,
        },
    }
}
