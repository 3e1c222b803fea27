//! snapring
