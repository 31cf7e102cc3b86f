//! What belongs to the user, or is not as the sink needs it, is refused with what helps.

use anabranch_core::{ColumnType, Error, ErrorKind, Level, Sink as _};
use anabranch_elasticsearch::{ElasticsearchConfig, check};
use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::documents::table;
use crate::server::{Server, url};

async fn refusal(server: &Server) -> Error {
    let error = server.open(&[0]).cursor().await.unwrap_err();
    assert!(error.help().is_some(), "{error:?}");
    error
}

#[tokio::test]
async fn an_index_of_the_users_under_the_aliass_name_is_refused() {
    let server = Server::new();
    let name = server.name("t");
    server.ask(Method::Put, &name, &Value::Null).await;
    let error = refusal(&server).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains(&format!("POST /{name}/_clone/{name}-old")), "{error:?}");
    let (status, _) = server.ask(Method::Get, &server.name("t-1"), &Value::Null).await;
    assert_eq!(status, 404, "nothing is half-created");
    // The help helps.
    server.ask(Method::Put, &format!("{name}/_block/write"), &Value::Null).await;
    let (status, _) =
        server.ask(Method::Post, &format!("{name}/_clone/{name}-old"), &Value::Null).await;
    assert_eq!(status, 200);
    server.ask(Method::Delete, &name, &Value::Null).await;
    server.open(&[0]).cursor().await.unwrap();
}

#[tokio::test]
async fn an_alias_of_the_users_is_left_alone() {
    let server = Server::new();
    let body = json!({"aliases": {server.name("t"): {}}});
    server.ask(Method::Put, &server.name("mine"), &body).await;
    let error = refusal(&server).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains(&server.name("mine")), "{error:?}");
}

#[tokio::test]
async fn an_index_of_the_users_under_our_name_is_refused() {
    let server = Server::new();
    server.ask(Method::Put, &server.name("t-1"), &Value::Null).await;
    let error = refusal(&server).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("not made by anabranch"), "{error:?}");
}

#[tokio::test]
async fn an_index_that_could_lose_rows_is_refused_and_found_by_check() {
    let server = Server::new();
    server.open(&[0]).cursor().await.unwrap();
    let index = server.name("t-1");
    let fine = check(&server.config, "search").await;
    assert!(fine.iter().all(|finding| finding.level == Level::Fine), "{fine:?}");
    assert!(fine.iter().any(|finding| finding.subject.ends_with(&index)), "{fine:?}");
    let settings = format!("{index}/_settings");
    server.ask(Method::Put, &settings, &json!({"index.translog.durability": "async"})).await;
    let error = refusal(&server).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("durability"), "{error:?}");
    let found = check(&server.config, "search").await;
    let blocker = found.iter().find(|finding| finding.level == Level::Blocker).unwrap();
    assert!(blocker.help.contains(&format!("PUT /{settings}")), "{found:?}");
    let other = check(&server.config, "other").await;
    assert!(other.iter().all(|finding| finding.level == Level::Fine), "not its index: {other:?}");
}

#[tokio::test]
async fn a_column_with_the_name_of_our_field_is_refused() {
    let server = Server::new();
    let table = table(1, &[("id", ColumnType::Text), ("_p", ColumnType::Text)]);
    let error = server.open_for(&table, &[0]).cursor().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("column _p"), "{error:?}");
    let mut renamed = Server::new();
    renamed.config.partition_field = "partition".to_owned();
    renamed.open_for(&table, &[0]).cursor().await.unwrap();
}

#[tokio::test]
async fn another_name_for_our_field_is_refused_once_the_index_is_made() {
    let mut server = Server::new();
    server.open(&[0]).cursor().await.unwrap();
    server.config.version_field = "version".to_owned();
    let error = refusal(&server).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("no field version"), "{error:?}");
}

#[tokio::test]
async fn a_column_that_the_server_cannot_have_is_refused() {
    let server = Server::new();
    let table = table(1, &[("id", ColumnType::Text), ("_id", ColumnType::Text)]);
    let error = server.open_for(&table, &[0]).cursor().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("[_id]"), "{error:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_tried_again() {
    let mut server = Server::new();
    server.config.url = "http://127.0.0.1:9".to_owned();
    let error = server.open(&[0]).cursor().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let found = check(&server.config, "search").await;
    assert_eq!(found[0].level, Level::Blocker);
    assert!(found[0].help.contains("[sinks.search] url"), "{found:?}");
    server.config.url = url();
}

#[tokio::test]
async fn a_missing_certificate_is_named() {
    let mut config = ElasticsearchConfig::at("https://localhost:9200");
    config.ca_file = Some("/missing/ca.pem".into());
    let found = check(&config, "search").await;
    assert_eq!(found[0].level, Level::Blocker);
    assert!(found[0].help.contains("[sinks.search] ca_file"), "{found:?}");
}

#[tokio::test]
async fn something_else_at_the_address_is_named() {
    let server = crate::scripted::Scripted::start(|_| (200, "<html>hello</html>".to_owned())).await;
    let found = check(&ElasticsearchConfig::at(server.url()), "search").await;
    assert!(found[0].seen.contains("not Elasticsearch's"), "{found:?}");
}
