package kube

import (
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/version"
)

// parseVersion is the gitVersion of a /version answer.
func parseVersion(body []byte) (string, error) {
	var info version.Info
	if err := json.Unmarshal(body, &info); err != nil {
		return "", fmt.Errorf("reading the version: %w", err)
	}
	if info.GitVersion == "" {
		return "", errors.New("reading the version: no gitVersion in the answer; is this a Kubernetes API server")
	}
	return info.GitVersion, nil
}
