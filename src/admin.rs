//! HTTP of the daemon, on loopback unless told otherwise: `/status`, `/metrics` and `/health`.

use std::sync::Arc;

use anabranch_core::{Error, ErrorKind, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::AdminConfig;
use crate::metrics;
use crate::status::{Report, Status};

/// Takes the port.
///
/// # Errors
///
/// [`ErrorKind::Config`] if it is taken.
pub async fn bind(config: &AdminConfig) -> Result<TcpListener> {
    TcpListener::bind(config.listen).await.map_err(|error| {
        Error::new(ErrorKind::Config, format!("listen on {}", config.listen))
            .with_source(error)
            .with_help("end the other daemon, or choose another [admin] listen")
    })
}

/// Answers until `stop`.
///
/// # Errors
///
/// [`ErrorKind::Transient`] if the listener fails.
pub async fn serve(
    listener: TcpListener,
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<()> {
    let routes = Router::new()
        .route("/status", get(async |State(status): State<Arc<Status>>| Json(report(&status))))
        .route("/metrics", get(scrape))
        .route("/health", get(health))
        .with_state(status);
    let done = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
    done.map_err(|error| Error::new(ErrorKind::Transient, "serve HTTP").with_source(error))
}

fn report(status: &Status) -> Report {
    status.report(clock::now_us())
}

/// What Prometheus asks for.
async fn scrape(State(status): State<Arc<Status>>) -> Response {
    match metrics::render(&report(&status)) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.report()).into_response(),
    }
}

/// 200 while nothing is parked, 503 and what is parked otherwise.
async fn health(State(status): State<Arc<Status>>) -> (StatusCode, String) {
    let report = report(&status);
    if report.is_healthy() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, report.to_string())
    }
}
