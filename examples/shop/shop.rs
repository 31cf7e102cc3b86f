//! A world for the shop: a database, and a daemon with the sample's own configuration.

use crate::Failure;
use crate::support::services::address;
use crate::support::world::{World, database_url};

/// The tables, as `schema.table`.
pub(crate) const TABLES: [&str; 4] =
    ["public.customers", "public.products", "public.orders", "public.order_items"];
/// The sinks of `anabranch.toml`.
pub(crate) const SINKS: [&str; 3] = ["search", "cache", "lake"];

const SCHEMA: &str = include_str!("schema.sql");
const CONFIG: &str = include_str!("anabranch.toml");
/// What the demo needs to be told.
const ADDRESSES: [&str; 5] =
    ["POSTGRES_URL", "KAFKA", "REGISTRY_URL", "ELASTICSEARCH_URL", "REDIS_URL"];

/// An empty database, and the configuration for it.
pub(crate) async fn world() -> Result<World, Failure> {
    let is_unset = |name: &&&str| std::env::var_os(format!("ANABRANCH_TEST_{name}")).is_none();
    if let Some(name) = ADDRESSES.iter().find(is_unset) {
        return Err(
            format!("ANABRANCH_TEST_{name} is not set: start the demo with `make demo`").into()
        );
    }
    let mut world = World::new("", &TABLES).await;
    world.toml = filled_in(&world);
    Ok(world)
}

/// The rows of `schema.sql`.
pub(crate) async fn load(world: &World) -> Result<(), Failure> {
    world.sql.batch_execute(SCHEMA).await?;
    Ok(())
}

/// `anabranch.toml` with what the environment would say.
fn filled_in(world: &World) -> String {
    let values = [
        ("SHOP_NAME", world.name.clone()),
        ("SHOP_DATABASE_URL", database_url(&world.name)),
        ("SHOP_KAFKA", address("KAFKA")),
        ("SHOP_REGISTRY_URL", address("REGISTRY_URL")),
        ("SHOP_LISTEN", world.config().admin.listen.to_string()),
        ("SHOP_ELASTICSEARCH_URL", address("ELASTICSEARCH_URL")),
        ("SHOP_REDIS_URL", address("REDIS_URL")),
        ("SHOP_LAKE", world.path("lake").display().to_string()),
    ];
    let fill =
        |text: String, (name, value): &(&str, String)| text.replace(&format!("${{{name}}}"), value);
    values.iter().fold(CONFIG.to_owned(), fill)
}
