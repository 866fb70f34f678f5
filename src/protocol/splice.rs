//! Editing a batch of messages in flight without copying those that stay as they are.
//!
//! A batch that needs no edit leaves as a slice of the very buffer it was read into. The first
//! edit starts a copy, and the batch leaves as that one buffer, so one write carries it all.

/// A batch under edit. Positions are offsets into the input and only ever grow.
#[derive(Debug)]
pub struct Splice<'a> {
    input: &'a [u8],
    /// Start of the run of input bytes that has been kept but not copied.
    run_start: usize,
    output: &'a mut Vec<u8>,
}

impl<'a> Splice<'a> {
    /// A batch read into `input`; `output` must be empty and is used if there is an edit.
    pub fn new(input: &'a [u8], output: &'a mut Vec<u8>) -> Self {
        debug_assert!(output.is_empty());
        Self { input, run_start: 0, output }
    }

    /// The place to append what is inserted in front of position `at`.
    pub fn insert(&mut self, at: usize) -> &mut Vec<u8> {
        self.copy_run(at);
        self.output
    }

    /// Leaves out the bytes from `from` to `to`.
    pub fn skip(&mut self, from: usize, to: usize) {
        if from == self.run_start && self.output.is_empty() {
            self.run_start = to;
            return;
        }
        self.copy_run(from);
        self.run_start = to;
    }

    /// Puts other bytes in the place of those from `from` to `to`.
    pub fn replace(&mut self, from: usize, to: usize) -> &mut Vec<u8> {
        self.copy_run(from);
        self.run_start = to;
        self.output
    }

    /// The edited batch, up to position `end` of the input.
    pub fn finish(mut self, end: usize) -> &'a [u8] {
        if self.output.is_empty() {
            self.input.get(self.run_start..end).unwrap_or_default()
        } else {
            self.copy_run(end);
            self.output
        }
    }

    fn copy_run(&mut self, end: usize) {
        if let Some(run) = self.input.get(self.run_start..end) {
            self.output.extend_from_slice(run);
        }
        self.run_start = self.run_start.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::Splice;

    #[test]
    fn an_unedited_batch_is_not_copied() {
        let input = b"abcdef".to_vec();
        let mut output = Vec::new();
        let bytes = Splice::new(&input, &mut output).finish(4);
        assert_eq!(bytes, b"abcd");
        assert_eq!(bytes.as_ptr(), input.as_ptr());
    }

    #[test]
    fn a_skipped_head_is_not_copied_either() {
        let input = b"abcdef".to_vec();
        let mut output = Vec::new();
        let mut splice = Splice::new(&input, &mut output);
        splice.skip(0, 2);
        splice.skip(2, 3);
        assert_eq!(splice.finish(6), b"def");
        assert!(output.is_empty());
    }

    #[test]
    fn edits_come_out_in_order() {
        let mut output = Vec::new();
        let mut splice = Splice::new(b"abcdef", &mut output);
        splice.insert(1).extend_from_slice(b"XY");
        splice.skip(2, 3);
        splice.replace(4, 5).extend_from_slice(b"-");
        assert_eq!(splice.finish(6), b"aXYbd-f");
    }

    #[test]
    fn an_insertion_at_the_end_is_kept() {
        let mut output = Vec::new();
        let mut splice = Splice::new(b"abc", &mut output);
        splice.skip(0, 3);
        splice.insert(3).extend_from_slice(b"Z");
        assert_eq!(splice.finish(3), b"Z");
    }
}
