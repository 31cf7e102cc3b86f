//! The schema registry: Confluent's API, as Confluent and Apicurio speak it.
//!
//! ```text
//! schema ─▶ compatible with the subject's newest? ─▶ register ─▶ id
//! ```
//!
//! What differs between the two is met here and nowhere else: Apicurio has ids that are not
//! dense, answers 404 and 409 with other codes and texts, and its compatibility level is NONE
//! until somebody sets one. So only HTTP statuses and `is_compatible` are looked at.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::RegistryConfig;

/// A registry answers in milliseconds; one that does not is as good as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Characters of a registry's answer that go into an error.
const ANSWER_CHARS_MAX: usize = 300;

/// A client of a schema registry.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    http: reqwest::Client,
    /// Subject and schema to id. A subject has a handful of schemas in its life.
    registered: Mutex<HashMap<(String, String), i32>>,
}

#[derive(Deserialize)]
struct Registered {
    id: i32,
}

#[derive(Deserialize)]
struct Compatibility {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct Stored {
    schema: String,
}

impl Registry {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if no client can be made of `config`.
    pub fn new(config: &RegistryConfig) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(|e| {
            Error::new(ErrorKind::Config, "make a client of the registry").with_source(e)
        })?;
        Ok(Self { config: config.clone(), http, registered: Mutex::default() })
    }

    /// Registers `schema` under `subject`, unless it is there already, and returns its id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the registry refuses the schema or the credentials,
    /// [`ErrorKind::Transient`] if it does not answer.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<i32> {
        let known = (subject.to_owned(), schema.to_owned());
        if let Some(id) = self.registered().get(&known) {
            return Ok(*id);
        }
        self.check_compatible(subject, schema).await?;
        let action = format!("register a schema of {subject}");
        let path = format!("/subjects/{subject}/versions");
        let request = self.request(Method::POST, &path).json(&json!({ "schema": schema }));
        let answer: Registered = parse(&action, self.send(&action, request).await?)?;
        self.registered().insert(known, answer.id);
        Ok(answer.id)
    }

    /// Reads the schema with this id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] if there is none (yet), or the registry does not answer.
    pub async fn schema(&self, id: i32) -> Result<String> {
        let action = format!("read schema {id} from the registry");
        let request = self.request(Method::GET, &format!("/schemas/ids/{id}"));
        let answer = self.answer(&action, request).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Error::new(ErrorKind::Transient, action).with_source(answer.excerpt()));
        }
        parse::<Stored>(&action, accept(&action, answer)?).map(|stored| stored.schema)
    }

    /// Finds out whether the registry answers, and returns how many subjects it has.
    ///
    /// # Errors
    ///
    /// As for [`Registry::register`].
    pub async fn reach(&self) -> Result<usize> {
        let action = format!("list the subjects of the registry at {}", self.config.url);
        let request = self.request(Method::GET, "/subjects");
        let subjects: Vec<Value> = parse(&action, self.send(&action, request).await?)?;
        Ok(subjects.len())
    }

    /// Deletes a subject, if it is there.
    ///
    /// # Errors
    ///
    /// As for [`Registry::register`].
    pub async fn delete(&self, subject: &str) -> Result<()> {
        let action = format!("delete subject {subject}");
        let request = self.request(Method::DELETE, &format!("/subjects/{subject}"));
        let answer = self.answer(&action, request).await?;
        if answer.status != StatusCode::NOT_FOUND {
            accept(&action, answer)?;
        }
        Ok(())
    }

    async fn check_compatible(&self, subject: &str, schema: &str) -> Result<()> {
        let action = format!("use a new schema of {subject}");
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let request = self.request(Method::POST, &path).json(&json!({ "schema": schema }));
        let answer = self.answer(&action, request).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(()); // The subject has no version yet.
        }
        let verdict: Compatibility = parse(&action, accept(&action, answer)?)?;
        if verdict.is_compatible {
            return Ok(());
        }
        let told = verdict.messages.join("; ");
        let seen = format!("the registry finds it incompatible with the newest version: {told}");
        Err(incompatible(action).with_source(seen))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.config.url.trim_end_matches('/'));
        let request = self.http.request(method, url);
        match &self.config.username {
            Some(user) => {
                let password = self.config.password.as_ref().map(|secret| secret.expose());
                request.basic_auth(user, password)
            }
            None => request,
        }
    }

    async fn send(&self, action: &str, request: RequestBuilder) -> Result<String> {
        accept(action, self.answer(action, request).await?)
    }

    async fn answer(&self, action: &str, request: RequestBuilder) -> Result<Answer> {
        let unreachable = |error: reqwest::Error| {
            // A malformed URL is found when the request is built.
            let kind = if error.is_builder() { ErrorKind::Config } else { ErrorKind::Transient };
            Error::new(kind, action)
                .with_source(error)
                .with_help(format!("check [registry] url {}", self.config.url))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.text().await.map_err(unreachable)?;
        Ok(Answer { status, body })
    }

    fn registered(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), i32>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Answer {
    status: StatusCode,
    body: String,
}

impl Answer {
    fn excerpt(&self) -> String {
        let told = serde_json::from_str::<Value>(&self.body).ok();
        let told = told.as_ref().and_then(|body| body.get("message")).and_then(Value::as_str);
        let text: String = told.unwrap_or(&self.body).chars().take(ANSWER_CHARS_MAX).collect();
        format!("it answers {}: {text}", self.status)
    }
}

/// The one place that knows what a status means.
fn accept(action: &str, answer: Answer) -> Result<String> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer.body);
    }
    let error = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(ErrorKind::Config, action)
            .with_help("check [registry] username and password"),
        StatusCode::CONFLICT => incompatible(action),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Error::new(ErrorKind::Transient, action)
        }
        _ if status.is_server_error() => Error::new(ErrorKind::Transient, action),
        _ => Error::new(ErrorKind::Config, action)
            .with_help("check that [registry] url is the root of Confluent's API"),
    };
    Err(error.with_source(answer.excerpt()))
}

fn incompatible(action: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, action)
        .with_help("lower the compatibility level of the subject, or undo the change of the table")
}

fn parse<T: serde::de::DeserializeOwned>(action: &str, body: String) -> Result<T> {
    serde_json::from_str(&body).map_err(|error| {
        Error::new(ErrorKind::Config, action)
            .with_source(error)
            .with_help("check that [registry] url is the root of Confluent's API")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_what_to_do() {
        let kind = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            let body = r#"{"error_code": 1, "message": "no"}"#.to_owned();
            accept("register", Answer { status, body }).unwrap_err().kind()
        };
        for (status, wanted) in [
            (401, ErrorKind::Config),
            (409, ErrorKind::Config),
            (422, ErrorKind::Config),
            (429, ErrorKind::Transient),
            (503, ErrorKind::Transient),
        ] {
            assert_eq!(kind(status), wanted, "{status}");
        }
    }

    #[test]
    fn the_registrys_own_words_are_shown() {
        let body = r#"{"error_code": 40901, "message": "reader type: INT"}"#.to_owned();
        let answer = Answer { status: StatusCode::CONFLICT, body };
        assert_eq!(answer.excerpt(), "it answers 409 Conflict: reader type: INT");
    }
}
