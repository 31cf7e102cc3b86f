//! What `INFO` says of a server.

/// The answer to `INFO`: lines of `name:value`.
#[derive(Debug)]
pub(crate) struct Info(String);

impl Info {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The value of `name`, or nothing.
    pub(crate) fn get(&self, name: &str) -> &str {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(held, _)| *held == name).map_or("", |(_, value)| value.trim())
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.get("cluster_enabled") == "1"
    }

    /// The first number of `redis_version`; 0 if it is not known.
    pub(crate) fn major_version(&self) -> u32 {
        let first = self.get("redis_version").split('.').next().unwrap_or_default();
        first.parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "# Server\r\nredis_version:7.0.15\r\n\r\naof_enabled:0\r\naof:1\r\nx:a:b\r\n";
        let info = Info::new(text.to_owned());
        assert_eq!(info.major_version(), 7);
        assert_eq!((info.get("aof"), info.get("x"), info.get("redis")), ("1", "a:b", ""));
        assert!(!info.is_cluster());
    }
}
