//! Histories: the body of one, sealed as an export would have sealed it.

use orlop_saga::history::History;

/// Decodes; says whether it was accepted.
pub(crate) fn run(body: &[u8]) -> bool {
    let mut sealed = b"orlopHIS".to_vec();
    sealed.extend_from_slice(&1_u32.to_le_bytes());
    sealed.extend_from_slice(&(body.len() as u64).to_le_bytes());
    sealed.extend_from_slice(body);
    let digest = blake3::hash(&sealed);
    sealed.extend_from_slice(digest.as_bytes());
    // Most inputs are not sealed, and neither are these bytes alone.
    assert!(History::decode(body).is_err());
    let Ok(history) = History::decode(&sealed) else {
        return false;
    };
    let bytes = history
        .encode()
        .expect("a history that was read is written");
    assert_eq!(History::decode(&bytes).as_ref(), Ok(&history));
    // What is believed can be asked.
    let _ = (
        history.state.next_undo(),
        history.state.settlement(history.saga),
    );
    true
}
