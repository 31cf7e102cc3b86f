//! Which tables a list of names takes in.
//!
//! ```text
//! "public.orders"  this one       "shop.*"  every one of the schema       "!shop.audit"  but not this one
//! ```

/// What stands for every table of a schema.
const ALL: &str = "*";

/// Whether `list` takes in the table `schema.name`. What is left out is left out wherever it stands.
#[must_use]
pub fn takes_in(list: &[String], schema: &str, name: &str) -> bool {
    if name == ALL || excluded(schema).is_some() {
        return false;
    }
    let is = |text: &str| text.split_once('.') == Some((schema, name));
    let is_in = |text: &String| is(text) || whole_schema(text) == Some(schema);
    let is_out = |text: &String| excluded(text).is_some_and(is);
    list.iter().any(is_in) && !list.iter().any(is_out)
}

/// The schema that an entry takes in as a whole.
#[must_use]
pub fn whole_schema(entry: &str) -> Option<&str> {
    let (schema, table) = entry.split_once('.')?;
    (table == ALL && excluded(entry).is_none()).then_some(schema)
}

/// The table that an entry leaves out.
#[must_use]
pub fn excluded(entry: &str) -> Option<&str> {
    entry.strip_prefix('!')
}

/// The entry that means nothing in `list`, and why.
///
/// # Errors
///
/// Words for the person who wrote the list.
pub fn validate(list: &[String]) -> Result<(), (String, &'static str)> {
    for entry in list {
        let table = excluded(entry).unwrap_or(entry);
        let why = match table.split_once('.') {
            None | Some(("", _) | (_, "")) => "a table is written \"schema.table\"",
            Some(("*", _)) => "a schema is written by its name",
            Some((_, ALL)) if table != entry => "only single tables are left out",
            Some(_) if table != entry && list.iter().any(|other| other == table) => {
                "it is named, and left out"
            }
            Some(_) => continue,
        };
        return Err((entry.clone(), why));
    }
    match list.first() {
        Some(first) if list.iter().all(|entry| excluded(entry).is_some()) => {
            Err((first.clone(), "nothing is taken in that it could be left out of"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn a_list_takes_in_tables_and_schemas_and_leaves_tables_out() {
        let names = list(&["public.t", "shop.*", "!shop.audit", "!public.u"]);
        validate(&names).unwrap();
        let cases = [
            ("public", "t", true),
            ("public", "u", false),
            ("public", "tt", false),
            ("shop", "orders", true),
            ("shop", "audit", false),
            ("shop", "audit.old", true),
            ("shopping", "orders", false),
            ("other", "t", false),
            ("shop", "*", false),
            ("!shop", "audit", false),
        ];
        for (schema, name, expected) in cases {
            assert_eq!(takes_in(&names, schema, name), expected, "{schema}.{name}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let bad: [&[&str]; 7] = [
            &["orders"],
            &["public."],
            &[".t"],
            &["*.*"],
            &["a.*", "!a.*"],
            &["a.b", "!a.b"],
            &["!a.b"],
        ];
        for entries in bad {
            assert!(validate(&list(entries)).is_err(), "{entries:?}");
        }
    }
}
