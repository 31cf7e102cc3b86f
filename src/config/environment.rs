//! `${NAME}` in the strings of a TOML document, from the environment; `$$` is a dollar sign.

use toml::{Table, Value};

/// What could not be filled in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfilled {
    #[error("the environment variable {name} of `{key}` is not set")]
    Unset { name: String, key: String },
    #[error("`{key}` has a $ that begins neither ${{NAME}} nor $$")]
    Stray { key: String },
}

/// Fills in every string below `table`.
pub(super) fn fill(
    table: &mut Table,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Unfilled> {
    table.iter_mut().try_for_each(|(key, value)| fill_value(key, value, lookup))
}

fn fill_value(
    key: &str,
    value: &mut Value,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Unfilled> {
    match value {
        Value::String(text) => *text = filled(key, text, lookup)?,
        Value::Array(values) => {
            values.iter_mut().try_for_each(|value| fill_value(key, value, lookup))?;
        }
        Value::Table(table) => fill(table, lookup)?,
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
    Ok(())
}

fn filled(
    key: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Unfilled> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let stray = || Unfilled::Stray { key: key.to_owned() };
        let (name, after) =
            after.strip_prefix('{').and_then(|after| after.split_once('}')).ok_or_else(stray)?;
        let unset = || Unfilled::Unset { name: name.to_owned(), key: key.to_owned() };
        out.push_str(&lookup(name).ok_or_else(unset)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill_in(text: &str) -> Result<String, Unfilled> {
        filled("key", text, &|name| (name == "A").then(|| "1${A}$".to_owned()))
    }

    #[test]
    fn names_are_filled_in_once() {
        assert_eq!(fill_in("x${A}y").unwrap(), "x1${A}$y");
        assert_eq!(fill_in("$${A}").unwrap(), "${A}");
        assert_eq!(fill_in("plain").unwrap(), "plain");
        for bad in ["${B}", "$A", "${A", "end$"] {
            assert!(fill_in(bad).is_err(), "{bad}");
        }
    }
}
