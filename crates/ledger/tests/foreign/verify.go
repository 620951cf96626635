// Verifies an exported log, every entry and every tile, with golang.org/x/mod/sumdb (the code behind sum.golang.org) alone:
//
//	verify DIR "$(cat ledger.vkey)" [OLD_CHECKPOINT]
//
// The key and the old checkpoint, which the log must only have grown from, come from outside the directory. A checkpoint that the key has signed is opened, the tree is made anew from the entries
// and compared with the signed root, every tile file is compared with that tree, and then one entry of every tile is proved as a
// client of the log does it, from the tiles alone. Before x/mod 0.40, TileHashReader believes some tiles (CVE-2026-56865); nothing
// here depends on what it alone believes.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height, full = 8, 1 << 8

// files reads tiles by the paths of C2SP tlog-tiles, which are those of sumdb without the height.
type files string

func (dir files) Height() int                     { return height }
func (dir files) SaveTiles([]tlog.Tile, [][]byte) {}
func (dir files) read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(dir), path))
}
func (dir files) tile(tile tlog.Tile) (b []byte, e error) {
	return dir.read(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
}
func (dir files) ReadTiles(tiles []tlog.Tile) (all [][]byte, err error) {
	for _, tile := range tiles {
		data, err := dir.tile(tile)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 && len(os.Args) != 4 {
		log.Fatal("usage: verify DIR VKEY [OLD_CHECKPOINT]")
	}
	dir := files(os.Args[1])
	verifier, err := note.NewVerifier(strings.TrimSpace(os.Args[2]))
	check(err, "the key")
	text, err := dir.read("checkpoint")
	check(err, "checkpoint")
	tree := open(text, verifier)

	// Every entry, from its bytes up to the signed root.
	stored := []tlog.Hash{}
	hashes := tlog.HashReaderFunc(func(indexes []int64) (found []tlog.Hash, err error) {
		for _, index := range indexes {
			found = append(found, stored[index])
		}
		return found, nil
	})
	firsts := [][]byte{}
	for at := int64(0); at < tree.N; {
		width := full
		if tree.N-at < full {
			width = int(tree.N - at)
		}
		path := tlog.Tile{H: height, L: -1, N: at / full, W: width}.Path()
		bundle, err := dir.read(strings.Replace(path, "tile/8/data/", "tile/entries/", 1))
		check(err, "bundle")
		for number := 0; number < width; number++ {
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				log.Fatalf("entry %d: missing or cut off", at)
			}
			entry := bundle[2 : 2+int(binary.BigEndian.Uint16(bundle))]
			bundle = bundle[2+len(entry):]
			more, err := tlog.StoredHashes(at, entry, hashes)
			check(err, "entry")
			stored = append(stored, more...)
			if number == 0 {
				firsts = append(firsts, entry)
			}
			at++
		}
		if len(bundle) != 0 {
			log.Fatalf("%s: more than its entries", path)
		}
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	check(err, "root")
	if root != tree.Hash {
		log.Fatal("the entries do not lead to the signed root")
	}

	// Every tile, byte for byte.
	tiles := 0
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		if last := tree.N >> uint(height*tile.L); tile.W != full && int64(tile.W) != last-tile.N*full {
			continue // the edge of an earlier size
		}
		want, err := tlog.ReadTileData(tile, hashes)
		check(err, "tile")
		have, err := dir.tile(tile)
		check(err, "tile")
		if !bytes.Equal(want, have) {
			log.Fatalf("%s: not the tile that was signed", tile.Path())
		}
		tiles++
	}

	// As a client does it: with the checkpoint and a few tiles.
	reader := tlog.TileHashReader(tree, dir)
	for number, entry := range firsts {
		at := int64(number) * full
		proof, err := tlog.ProveRecord(tree.N, at, reader)
		check(err, "proof")
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, at, tlog.RecordHash(entry)), "proof")
	}

	if len(os.Args) == 4 {
		text, err := os.ReadFile(os.Args[3])
		check(err, "the old checkpoint")
		old := open(text, verifier)
		if old.N > tree.N {
			log.Fatalf("the log had %d entries and has %d", old.N, tree.N)
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		check(err, "growth")
		check(tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash), "the log did not grow from the old checkpoint")
		fmt.Printf("grown from %d entries\n", old.N)
	}
	fmt.Printf("verified %d entries, %d tiles, %d proofs, root %s\n", tree.N, tiles, len(firsts), tree.Hash)
}

// open reads a checkpoint that the key has signed for its own log.
func open(text []byte, verifier note.Verifier) tlog.Tree {
	signed, err := note.Open(text, note.VerifierList(verifier))
	check(err, "checkpoint")
	// sumdb's own first line is another; the rest is the same.
	origin := verifier.Name() + "\n"
	if !strings.HasPrefix(signed.Text, origin) {
		log.Fatal("checkpoint: another log's")
	}
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.TrimPrefix(signed.Text, origin)))
	check(err, "checkpoint")
	return tree
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}
