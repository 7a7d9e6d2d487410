"""Settings, all read from the environment. With nothing set, Tastemaker runs on servers of its own.

TASTEMAKER_DATA    folder that holds the whole state (default: var/ in the checkout)
DATABASE_URL       PostgreSQL; unset: the bundled one, on a Unix socket in the data folder
REDIS_URL          Redis or Valkey; unset: the bundled one
PORT, HOST         where `manage.py up` serves (8000, 127.0.0.1)
PRODUCTION         1: served over HTTPS; then SECRET_KEY and ALLOWED_HOSTS are required
TASTEMAKER_POLICY  first policy of new projects: a folder or a hub name (default: the demo policy)
TASTEMAKER_GENERATION_SERVERS, TASTEMAKER_SERVER_KEY
                   servers that managers may have asked for completions (none), and the key that they are shown
TASTEMAKER_PROCESSES
                   processes that share a run: as many as a worker has GPUs, or cores (1)
"""

from pathlib import Path

from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from config import embedded, environment

BASE_DIR = Path(__file__).resolve().parent.parent
DATA = Path(environment.text("TASTEMAKER_DATA") or BASE_DIR / "var").resolve()
DATA.mkdir(parents=True, exist_ok=True)
PRODUCTION = environment.flag("PRODUCTION")
DEBUG = environment.flag("DEBUG")
PORT = environment.number("PORT", 8000, 1, 65535)
HOST = environment.host("HOST", "127.0.0.1")
SECRET_KEY = environment.secret_key(DATA, required=PRODUCTION)
ALLOWED_HOSTS = environment.words("ALLOWED_HOSTS", "" if PRODUCTION else "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = environment.words("CSRF_TRUSTED_ORIGINS")
if PRODUCTION and not ALLOWED_HOSTS:
    raise ImproperlyConfigured("PRODUCTION is set but ALLOWED_HOSTS is not: name the hosts that you serve")
if PRODUCTION and DEBUG:
    raise ImproperlyConfigured("PRODUCTION and DEBUG are both set; a public server never runs with DEBUG")

POLICY_MODEL = environment.text("TASTEMAKER_POLICY") or str(BASE_DIR / "training" / "demo" / "policy")

# A worker asks them from inside the network, so managers choose among these and no others.
GENERATION_SERVERS = environment.servers("TASTEMAKER_GENERATION_SERVERS")
GENERATION_SERVER_KEY = environment.text("TASTEMAKER_SERVER_KEY")

ENGINE_PROCESSES = environment.number("TASTEMAKER_PROCESSES", 1, 1, 64)

INSTALLED_APPS = [
    "config",
    "labeling",
    "training",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "django_htmx",
    "csp",
]

MIDDLEWARE = [
    "config.health.Health",
    "django.middleware.security.SecurityMiddleware",
    "config.compression.PagesCompressed",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "config.languages.OwnLanguage",  # after the person is known
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "csp.context_processors.nonce",
            ],
        },
    },
]

# Data

DATABASES = {"default": environment.postgres("DATABASE_URL", embedded.database_url(DATA))}
# A web process answers in threads, which share a pool; a worker process keeps its one connection.
if pool_size := environment.number("DATABASE_POOL", 0, 0, 200):
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
        "min_size": 1,
        "max_size": pool_size,
        "timeout": 15,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = environment.redis("REDIS_URL", embedded.redis_url(DATA))
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}

# Jobs: a message only says "look at run 17"; what is true stands in the database.

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 3}  # a broker that is away must not hold a page
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 2

# People

AUTH_USER_MODEL = "labeling.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "labeling.accounts.ClosedSignup"
ACCOUNT_LOGOUT_ON_GET = False
# Who proves an address takes it from nobody here, since accounts are made by managers; mail may not be set at all.
MFA_ALLOW_UNVERIFIED_EMAIL = True
# Whom guesses are counted for; without it everybody behind a proxy shares one limit.
ALLAUTH_TRUSTED_PROXY_COUNT = 1 if environment.flag("BEHIND_PROXY") else 0

# Mail, such as a link to set a new password: by a server of the operator's, else into the log

EMAIL_HOST = environment.text("EMAIL_HOST")
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if EMAIL_HOST else 'console'}.EmailBackend"
EMAIL_USE_TLS = environment.flag("EMAIL_USE_TLS")
EMAIL_USE_SSL = environment.flag("EMAIL_USE_SSL")
if EMAIL_USE_TLS and EMAIL_USE_SSL:
    raise ImproperlyConfigured("EMAIL_USE_TLS and EMAIL_USE_SSL are both set; a server speaks one of them")
EMAIL_PORT = environment.number(
    "EMAIL_PORT", 465 if EMAIL_USE_SSL else 587 if EMAIL_USE_TLS else 25, 1, 65535
)
EMAIL_HOST_USER = environment.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = environment.text("EMAIL_HOST_PASSWORD")
EMAIL_TIMEOUT = 10  # seconds: a server that is away must not hold a page
DEFAULT_FROM_EMAIL = environment.text("DEFAULT_FROM_EMAIL")
if EMAIL_HOST and not DEFAULT_FROM_EMAIL:
    raise ImproperlyConfigured("EMAIL_HOST is set, and DEFAULT_FROM_EMAIL is not: whom do letters come from?")
DEFAULT_FROM_EMAIL = DEFAULT_FROM_EMAIL or "tastemaker@localhost"

# Pages

LANGUAGE_CODE = "en"
# By their own names, so that people find theirs whatever the page speaks. docs/languages.md: how to add one.
LANGUAGES = [
    ("en", "English"),
    ("es", "Español"),
    ("fr", "Français"),
    ("zh-hans", "简体中文"),
    ("ar", "العربية"),
]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA / "static"
STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns of a root that is not there
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # served from where they lie: nothing to collect on first start
WHITENOISE_AUTOREFRESH = False
WHITENOISE_MAX_AGE = 300 if PRODUCTION else 0

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PRODUCTION
SECURE_SSL_REDIRECT = PRODUCTION and environment.flag("SSL_REDIRECT", True)
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
if environment.flag("BEHIND_PROXY"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 2**20

# REST

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "labeling.api.reading.Token",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["labeling.api.reading.LimitedJSON"],
    "EXCEPTION_HANDLER": "labeling.api.errors.answer",
    # Without this a client could invent an X-Forwarded-For for each guess of a password.
    "NUM_PROXIES": 1 if environment.flag("BEHIND_PROXY") else 0,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_RATES": {"token": "30/min"},
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tastemaker",
    "DESCRIPTION": "Prompts in, comparisons out to people, preferences and models back.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # A script, not values: static/js/api.js has the second one.
    "SWAGGER_UI_SETTINGS": "{deepLinking: true, presets: [SwaggerUIBundle.presets.apis, toBeReadByEar]}",
    "REDOC_DIST": "SIDECAR",
}
REST_KNOX = {"TOKEN_TTL": None, "AUTH_HEADER_PREFIX": "Token", "TOKEN_PREFIX": "tm_"}

LOG_LEVEL = environment.choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    # Celery notes each message at INFO, and a tick comes every two seconds.
    "loggers": {"celery": {"level": "WARNING" if LOG_LEVEL == "INFO" else LOG_LEVEL}},
}
