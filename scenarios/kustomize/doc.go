// Package kustomize renders a kustomization from local files alone.
//
// [Build] holds every kustomization file that the named one leads to against one rule (nothing may be fetched, nothing may be executed), and gives
// them to the kustomize library, which sees nothing but a read-only [io/fs.FS]. What breaks the rule is told as [Refusals], all at once, before
// anything is rendered; the library also reads its files through the same check, so that a file that was overlooked cannot be rendered either.
//
// The trap: the library decides by the look of a path whether it is remote (a directory named github.com/x/y is cloned although it lies beside
// the kustomization), so paths are judged by their look here too. The library keeps schemas in package variables: calls of Build must not overlap
// with other uses of it that set a schema of their own.
//
// What the rendered objects mean does not belong here.
package kustomize
