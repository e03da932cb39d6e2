package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// What a StorageClass names in its field `provisioner`.
const provisionerName = "holdfast.dev/local"

// localProvisioner makes `local` volumes: a folder below `root` for each. Unlike hostPath they honour fsGroup and bind
// the pod to its node. A capacity is noted and not enforced.
type localProvisioner struct{ root, node string }

func newProvisionerCommand() *cobra.Command {
	var kubeconfig string
	var p localProvisioner
	command := &cobra.Command{
		Use:   "provisioner",
		Short: "Makes and deletes local volumes on this node for claims of StorageClasses of " + provisionerName,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("reading %s: %w", kubeconfig, err)
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			ctx := klog.NewContext(command.Context(), klog.Background())
			controller.NewProvisionController(ctx, client, provisionerName, &p, controller.LeaderElection(false)).Run(ctx)
			return nil
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&p.root, "root", "", "folder in which each volume gets a folder")
	command.Flags().StringVar(&p.node, "node", "", "name of this node")
	for _, flag := range []string{"kubeconfig", "root", "node"} {
		if err := command.MarkFlagRequired(flag); err != nil {
			panic(err)
		}
	}
	return command
}

func (p *localProvisioner) path(volume string) string { return filepath.Join(p.root, volume) }

// Provision makes the folder, or finds it from an attempt whose answer was lost.
func (p *localProvisioner) Provision(_ context.Context, o controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	if err := p.refusal(o); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	path := p.path(o.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// Past the umask: a pod without fsGroup, of whatever user, may write.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	mode := v1.PersistentVolumeFilesystem
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			VolumeMode:                    &mode,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: o.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeSource:        v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{
					{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{p.node}},
				},
			}}}},
		},
	}, controller.ProvisioningFinished, nil
}

// refusal says why a claim can't be served, nil if it can.
func (p *localProvisioner) refusal(o controller.ProvisionOptions) error {
	if o.SelectedNodeName != "" && o.SelectedNodeName != p.node {
		return fmt.Errorf("volumes are made on node %s only, the pod is to run on %s", p.node, o.SelectedNodeName)
	}
	if o.PVC.Spec.Selector != nil {
		return errors.New("a claim with a selector can't be provisioned: leave the selector out")
	}
	if o.PVC.Spec.DataSource != nil || o.PVC.Spec.DataSourceRef != nil {
		return errors.New("local volumes can't be cloned or made from snapshots: leave dataSource out")
	}
	for _, mode := range o.PVC.Spec.AccessModes {
		if mode == v1.ReadWriteOncePod {
			return errors.New("ReadWriteOncePod needs a CSI driver: use ReadWriteOnce")
		}
	}
	return nil
}

// Delete removes the volume's folder with all that is in it. Once it returns nil the volume's object goes too.
func (p *localProvisioner) Delete(_ context.Context, volume *v1.PersistentVolume) error {
	path := p.path(volume.Name)
	// Only what Provision made: an object edited by hand does not point this at another folder.
	if volume.Spec.Local == nil || volume.Spec.Local.Path != path {
		return &controller.IgnoredError{Reason: fmt.Sprintf("volume %s does not lie at %s", volume.Name, path)}
	}
	return os.RemoveAll(path)
}
