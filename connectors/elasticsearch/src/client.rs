//! One request, one answer: the crate's transport with a deadline and typed failures.

use std::fmt;

use anabranch_core::{Error, ErrorKind, Result, Secret};
use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::ElasticsearchConfig;
use crate::error::{Failure, without_values};

/// A connection pool to one address.
#[derive(Clone)]
pub(crate) struct Client {
    transport: Transport,
    timeout: Duration,
    /// The sink's name, for messages.
    pub(crate) sink: String,
}

/// Without the transport, whose own `Debug` shows the password.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("sink", &self.sink).finish_non_exhaustive()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    lines: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, query: Vec::new(), body: None, lines: false }
    }

    pub(crate) fn get(path: &'a str) -> Self {
        Self::new(Method::Get, path)
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = Some(Bytes::from(body.to_string()));
        self
    }

    /// A body of lines, each a JSON document.
    pub(crate) fn lines(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self.lines = true;
        self
    }
}

impl Client {
    pub(crate) fn new(config: &ElasticsearchConfig, sink: &str) -> Result<Self> {
        let url = config.validate(sink)?;
        let action = || format!("use [sinks.{sink}]");
        let mut builder =
            TransportBuilder::new(SingleNodeConnectionPool::new(url)).enable_meta_header(false);
        if let (Some(user), Some(password)) = (&config.username, &config.password) {
            builder = builder.auth(Credentials::Basic(user.clone(), password.expose().to_owned()));
        }
        if let Some(key) = config.api_key.as_ref().map(Secret::expose) {
            builder = builder.auth(Credentials::EncodedApiKey(key.to_owned()));
        }
        if let Some(file) = &config.ca_file {
            let config_error = || {
                Error::new(ErrorKind::Config, format!("read certificate {}", file.display()))
                    .with_help(format!("check [sinks.{sink}] ca_file"))
            };
            let pem = std::fs::read(file).map_err(|error| config_error().with_source(error))?;
            let authority =
                Certificate::from_pem(&pem).map_err(|error| config_error().with_source(error))?;
            builder = builder.cert_validation(CertificateValidation::Full(authority));
        }
        let transport = builder
            .build()
            .map_err(|error| Error::new(ErrorKind::Config, action()).with_source(error))?;
        Ok(Self { transport, timeout: config.request_timeout(), sink: sink.to_owned() })
    }

    /// The deadline of something that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The body of the answer, if its status is 2xx. Nothing is sent after `deadline`, and nothing
    /// is waited for after it.
    pub(crate) async fn call(
        &self,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Bytes, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Deadline("none".to_owned()));
        }
        let content = if request.lines { "application/x-ndjson" } else { "application/json" };
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let Request { method, path, query, body, .. } = request;
        let response = self
            .transport
            .send(method, path, headers, Some(&query), body, Some(left))
            .await
            .map_err(Failure::Transport)?;
        let status = response.status_code();
        let body = response.bytes().await.map_err(Failure::Transport)?;
        if status.is_success() { Ok(body) } else { Err(failure(status.as_u16(), &body)) }
    }

    /// The answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        parse(&self.call(request, deadline).await?)
    }
}

/// Reads an answer.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Reply(error.to_string()))
}

/// What the server says of an error: `{"error": {"type", "reason", "caused_by"}}`, or a text.
fn failure(status: u16, body: &[u8]) -> Failure {
    #[derive(Deserialize)]
    struct Body {
        error: Value,
    }
    let error = serde_json::from_slice::<Body>(body).map(|body| body.error).unwrap_or_default();
    let text = |pointer: &str| error.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let reason = [text("/reason"), text("/caused_by/reason"), text("")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(": ");
    Failure::Answer { status, kind: text("/type").to_owned(), reason: without_values(&reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_any_form_are_read() {
        let body =
            br#"{"error":{"type":"t","reason":"r","caused_by":{"reason":"c"}},"status":400}"#;
        let cases: [(&[u8], &str); 3] = [
            (body, "HTTP 400 t: r: c"),
            (br#"{"error":"in a word","status":400}"#, "HTTP 400 : in a word"),
            (b"<html>", "HTTP 400 : "),
        ];
        for (body, wanted) in cases {
            assert_eq!(failure(400, body).to_string(), wanted);
        }
    }
}
