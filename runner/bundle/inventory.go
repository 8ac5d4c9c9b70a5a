package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle/sbom"
)

const (
	// inventoryRecipe is part of an inventory's key. It changes when the same layers shall give another inventory.
	inventoryRecipe = 1
	// inventoryName is the name of an inventory in its cache entry.
	inventoryName = "inventory.json"
)

// inventoryStep reads what an image is made of out of the steps that give it. open is called when those have run.
func (p *plan) inventoryStep(i *ImageSpec, from []*step, open func() (v1.Image, error)) (*step, error) {
	keys := make([]string, len(from))
	for n, l := range from {
		keys[n] = l.key
	}
	key, err := keyOf("inventory", struct {
		Recipe int
		Layers []string
	}{inventoryRecipe, keys})
	if err != nil {
		return nil, err
	}
	s := &step{title: "inventory of " + i.Name, key: key, needs: from}
	s.run = func(ctx context.Context, dir string, _ *entry) error {
		img, err := open()
		if err != nil {
			return fmt.Errorf("taking the inventory of %s: %w", i.Name, err)
		}
		if err := writeInventory(ctx, img, dir); err != nil {
			return fmt.Errorf("taking the inventory of %s: %w", i.Name, err)
		}
		return nil
	}
	return p.shared(s), nil
}

// stacked is an image of the layers that steps have made.
func stacked(layers []*step) (v1.Image, error) {
	img := empty.Image
	for _, l := range layers {
		var err error
		if img, err = mutate.AppendLayers(img, layerOf{l.entry}); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// writeInventory reads the image's file system as its layers make it together, and writes what it is made of into dir.
func writeInventory(ctx context.Context, img v1.Image, dir string) (err error) {
	spool, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close(), os.Remove(spool.Name())) }()
	root := mutate.Extract(img)
	defer root.Close()
	inv, err := sbom.Read(ctx, root, spool)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, inventoryName), raw, 0o444)
}

// addSBOM writes the bill of materials of a locked image and adds it to the lock's files.
func (l *lab) addSBOM(line images.Image, inventory *entry) error {
	raw, err := os.ReadFile(inventory.path(inventoryName))
	if err != nil {
		return fmt.Errorf("reading the inventory of %s: %w", line.Name, err)
	}
	var inv sbom.Inventory
	if err := json.Unmarshal(raw, &inv); err != nil {
		return fmt.Errorf("reading the inventory of %s: %w", line.Name, err)
	}
	document, err := inv.Document(sbom.Subject{Name: line.Name, Version: line.Tag, Digest: line.Digest, Architecture: goarch})
	if err != nil {
		return err
	}
	f := images.File{Path: line.SBOM(), SHA256: sumBytes(document), Size: int64(len(document)), Origin: "the layers of " + line.Reference()}
	to := images.FilePath(l.dir, f)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("adding file %s: %w", f.Path, err)
	}
	if err := os.WriteFile(to, document, 0o444); err != nil {
		return fmt.Errorf("adding file %s: %w", f.Path, err)
	}
	l.lock.Files = append(l.lock.Files, f)
	return nil
}
