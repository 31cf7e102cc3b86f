//! `anabranch pause SINK` and `anabranch resume SINK`.

use anabranch_core::Result;

use super::print;
use crate::config::Config;
use crate::control::Control;
use crate::supervisor::SOURCE;

pub(super) async fn set_paused(config: &Config, sink: &str, paused: bool) -> Result<()> {
    if paused || sink != SOURCE {
        config.sink(sink)?;
    }
    let control = Control::open(config).await?;
    control.set_paused(sink, paused).await?;
    let done = if paused { "will pause" } else { "will go on" };
    print(&format!("{sink} {done} within a second or two; `anabranch status` shows it\n"))
}
