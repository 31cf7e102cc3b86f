//! The registry as it answers.

use anabranch_core::ErrorKind;
use anabranch_kafka::Registry;
use uuid::Uuid;

use crate::support::Log;

fn schema(field: &str, kind: &str) -> String {
    let field = format!(r#"{{"name": "{field}", "type": {kind}}}"#);
    format!(r#"{{"type": "record", "name": "R", "fields": [{field}]}}"#)
}

#[tokio::test]
async fn schemas_are_registered_once_and_must_stay_compatible() {
    let log = Log::new();
    let registry = Registry::new(&log.registry).unwrap();
    let subject = format!("test-{}-value", Uuid::new_v4().simple());
    registry.delete(&subject).await.unwrap();
    let first = schema("a", r#""int""#);
    let id = registry.register(&subject, &first).await.unwrap();
    // Another process asks the registry, not the memory of this one.
    let again = Registry::new(&log.registry).unwrap();
    assert_eq!(again.register(&subject, &first).await.unwrap(), id);
    assert!(again.schema(id).await.unwrap().contains(r#""R""#));

    let error = registry.register(&subject, &schema("a", r#""string""#)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.help().is_some_and(|help| help.contains("compatibility")), "{error:?}");
    let wider = registry.register(&subject, &schema("a", r#""long""#)).await.unwrap();
    assert_ne!(wider, id);
    let error = registry.schema(i32::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    registry.delete(&subject).await.unwrap();
}

#[tokio::test]
async fn a_wrong_address_is_told_apart_from_a_registry_that_is_down() {
    let log = Log::new();
    let at = |url: String| {
        let config = anabranch_kafka::RegistryConfig { url, ..log.registry.clone() };
        Registry::new(&config).unwrap()
    };
    let error = at(format!("{}/elsewhere", log.registry.url)).reach().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let error = at("no url".to_owned()).reach().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let error = at("http://127.0.0.1:1".to_owned()).reach().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(at(log.registry.url.clone()).reach().await.is_ok());
}
