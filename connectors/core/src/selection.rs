//! Which tables a list of names takes in.
//!
//! ```text
//! "public.orders"   this one          "shop.*"   every one of the schema          "!shop.audit"   but not this one
//! ```

/// What stands for every table of a schema.
const ALL: &str = "*";

/// Whether `names` takes in the table `schema.name`. What is left out is left out wherever it stands.
#[must_use]
pub fn takes_in(names: &[String], schema: &str, name: &str) -> bool {
    let is = |text: &str| text.split_once('.') == Some((schema, name));
    let is_in = |text: &String| is(text) || whole_schema(text) == Some(schema);
    let is_out = |text: &String| left_out(text).is_some_and(is);
    names.iter().any(is_in) && !names.iter().any(is_out)
}

/// The schema that an entry of the list takes in as a whole.
#[must_use]
pub fn whole_schema(text: &str) -> Option<&str> {
    let (schema, table) = text.split_once('.')?;
    (table == ALL && left_out(text).is_none()).then_some(schema)
}

/// The table that an entry of the list leaves out.
#[must_use]
pub fn left_out(text: &str) -> Option<&str> {
    text.strip_prefix('!')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_in_tables_and_schemas_and_leaves_tables_out() {
        let names = ["public.t", "shop.*", "!shop.audit", "!public.u"].map(str::to_owned);
        let cases = [
            ("public", "t", true),
            ("public", "u", false),
            ("public", "tt", false),
            ("shop", "orders", true),
            ("shop", "audit", false),
            ("shop", "audit.old", true),
            ("shopping", "orders", false),
            ("other", "t", false),
        ];
        for (schema, name, expected) in cases {
            assert_eq!(takes_in(&names, schema, name), expected, "{schema}.{name}");
        }
        assert!(!takes_in(&["!public.t".to_owned()], "public", "u"), "it takes in nothing");
        assert_eq!((whole_schema("!shop.*"), whole_schema("*.*")), (None, Some("*")));
    }
}
