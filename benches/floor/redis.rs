//! HSET and DEL as bytes through one socket, with as many under way as it takes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anabranch_core::{Batch, RowOp, key, value};
use arrow_array::Array as _;
use url::Url;

use crate::Result;
use crate::scene::{PREFIX, Scene};
use crate::usage::{Meter, Usage};

/// Bytes of replies read at once: many, since each is four.
const REPLY_BYTES: usize = 64 << 10;

/// Sends every change and waits for every reply.
pub(super) fn replay(scene: &Scene, batches: &[Batch]) -> Result<Usage> {
    let mut requests = Vec::with_capacity(batches.len());
    let mut count = 0;
    for batch in batches {
        requests.push(encode(batch)?);
        count += batch.meta.len();
    }
    let stream = connect(scene)?;
    let mut replies = stream.try_clone()?;
    let meter = Meter::start(scene.server_pid("redis"))?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || expect(&mut replies, count));
        for request in &requests {
            (&stream).write_all(request)?;
        }
        reader.join().map_err(|_| "the reader of replies panicked")?
    })?;
    meter.stop()
}

fn connect(scene: &Scene) -> Result<TcpStream> {
    let url = Url::parse(scene.redis_url())?;
    let host = url.host_str().ok_or("the URL of Redis has no host")?;
    let mut stream = TcpStream::connect((host, url.port().unwrap_or(6379)))?;
    stream.set_nodelay(true)?;
    if let Some(password) = url.password() {
        let user = match url.username() {
            "" => "default",
            user => user,
        };
        let mut request = Vec::new();
        command(&mut request, &[b"AUTH", user.as_bytes(), password.as_bytes()]);
        stream.write_all(&request)?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        if reply != *b"+OK\r\n" {
            return Err("Redis refuses the password".into());
        }
    }
    Ok(stream)
}

/// The commands of a batch, one for each change.
fn encode(batch: &Batch) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let columns: Vec<_> = batch.table.columns.iter().zip(batch.rows.columns()).collect();
    for (place, meta) in batch.meta.iter().enumerate() {
        let id = key::text(&batch.rows, place, &batch.table)?;
        let name = format!("{PREFIX}:floor:{id}");
        if meta.op == RowOp::Delete {
            command(&mut out, &[b"DEL", name.as_bytes()]);
            continue;
        }
        let (version, partition) = (meta.version.to_string(), meta.partition.to_string());
        let mut words = vec!["HSET".to_owned(), name, "_v".to_owned(), version];
        words.extend(["_p".to_owned(), partition]);
        for (column, array) in &columns {
            if !array.is_null(place) {
                let mut text = String::new();
                value::text(&mut text, array.as_ref(), place, &column.kind)?;
                words.extend([column.name.clone(), text]);
            }
        }
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        command(&mut out, &words);
    }
    Ok(out)
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads `count` replies, each of which must be an integer.
fn expect(stream: &mut TcpStream, mut count: usize) -> Result<()> {
    let mut buffer = vec![0; REPLY_BYTES];
    let mut is_start = true;
    while count > 0 {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("Redis closed the connection".into());
        }
        for byte in buffer.iter().take(read) {
            if is_start && *byte != b':' {
                return Err("Redis refuses a command".into());
            }
            is_start = *byte == b'\n';
            count = count.saturating_sub(usize::from(is_start));
        }
    }
    Ok(())
}
