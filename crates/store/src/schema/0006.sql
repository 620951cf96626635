-- The signed note over the tree, in the last entry of every batch. The row in `head` is an anchor: the tree, the fence and the calls
-- that tasks had used when the ledger had `head.size` entries. A batch of nothing but calls writes entries only: what its head is
-- follows from the anchor and the entries since. Every other batch, and every so many entries, sets the anchor anew.
ALTER TABLE entries ADD COLUMN note TEXT;
