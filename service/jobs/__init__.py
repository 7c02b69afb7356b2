"""Jobs, for audio too long to wait for: `store` keeps them, `runner` does them, `webhooks` tells, `api` is asked."""
