//! The scripts, and their answers.
//!
//! Redis runs nothing else while a script runs. Each that writes rows begins by asking whether the
//! unit is still this worker's, and where this worker left it.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisWrite, Script, ToRedisArgs, cmd};

use crate::error::Failure;

/// The scripts of this release.
#[derive(Debug)]
pub(crate) struct Scripts {
    /// Makes a worker the owner of a unit.
    pub(crate) take_over: Script,
    /// Writes a chunk of rows, and may move the cursor.
    pub(crate) write: Script,
    /// Deletes those of some keys that are rows below a bound.
    pub(crate) delete_below: Script,
    /// Deletes those of some keys that are rows.
    pub(crate) clear: Script,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        let prelude = include_str!("scripts/prelude.lua");
        let script = |text| Script::new(&[prelude, text].concat());
        Self {
            take_over: script(include_str!("scripts/take_over.lua")),
            write: script(include_str!("scripts/write.lua")),
            delete_below: script(include_str!("scripts/delete_below.lua")),
            clear: script(include_str!("scripts/clear.lua")),
        }
    }
}

/// Runs `script`, and returns what it answers after `ok`, if anything.
pub(crate) async fn run(
    connection: &mut MultiplexedConnection,
    script: &Script,
    keys: &Args,
    args: &[&Args],
) -> Result<Option<String>, Failure> {
    let command = evalsha(script, keys, args);
    let answer = match command.query_async::<Vec<String>>(connection).await {
        Err(error) if error.code() == Some("NOSCRIPT") => {
            script.load_async(connection).await?;
            command.query_async(connection).await?
        }
        answer => answer?,
    };
    read(answer)
}

fn evalsha(script: &Script, keys: &Args, args: &[&Args]) -> Cmd {
    let mut command = cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    for part in args {
        command.arg(*part);
    }
    command
}

fn read(answer: Vec<String>) -> Result<Option<String>, Failure> {
    let mut words = answer.into_iter();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let text = second.clone().unwrap_or_default();
    match first.as_str() {
        "ok" => Ok(second),
        "taken" if text.is_empty() => Err(Failure::Gone),
        "taken" => Err(Failure::Taken),
        "moved" => Err(Failure::Moved),
        "foreign" => Err(Failure::Foreign(text)),
        "generation" => Err(Failure::Generation(text)),
        "format" => Err(Failure::Format(text)),
        _ => Err(Failure::Bug(format!("a script answered {first:?}"))),
    }
}

/// Keys or arguments of a script, one after the other in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    text: String,
    ends: Vec<usize>,
}

impl Args {
    pub(crate) fn new<'a>(all: impl IntoIterator<Item = &'a str>) -> Self {
        let mut args = Self::default();
        for one in all {
            args.push(one);
        }
        args
    }

    pub(crate) fn push(&mut self, one: &str) {
        self.push_with(|text| text.push_str(one));
    }

    /// Adds what `write` appends.
    pub(crate) fn push_with<R>(&mut self, write: impl FnOnce(&mut String) -> R) -> R {
        let result = write(&mut self.text);
        self.ends.push(self.text.len());
        result
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }
}

impl ToRedisArgs for Args {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        for one in self.iter() {
            out.write_arg(one.as_bytes());
        }
    }

    fn num_of_args(&self) -> usize {
        self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_before_arguments() {
        let scripts = Scripts::new();
        let command = evalsha(
            &scripts.write,
            &Args::new(["unit", "row"]),
            &[&Args::new(["a", ""]), &Args::new(["é"])],
        );
        let packed = String::from_utf8(command.get_packed_command()).unwrap();
        assert!(packed.starts_with("*8\r\n$7\r\nEVALSHA\r\n$40\r\n"), "{packed}");
        assert!(
            packed.ends_with(
                "$1\r\n2\r\n$4\r\nunit\r\n$3\r\nrow\r\n$1\r\na\r\n$0\r\n\r\n$2\r\né\r\n"
            ),
            "{packed}"
        );
    }

    #[test]
    fn answers_are_told_apart() {
        let answer = |words: &[&str]| read(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(answer(&["ok", "{}"]).unwrap(), Some("{}".to_owned()));
        assert_eq!(answer(&["ok"]).unwrap(), None);
        assert!(matches!(answer(&["taken", "somebody"]), Err(Failure::Taken)));
        assert!(matches!(answer(&["taken", ""]), Err(Failure::Gone)));
        assert!(matches!(answer(&["foreign", "k"]), Err(Failure::Foreign(key)) if key == "k"));
        assert!(matches!(answer(&[]), Err(Failure::Bug(_))));
    }
}
