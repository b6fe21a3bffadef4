package provider

import (
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// hardwareWay is how changes of hardware reach a VM.
const hardwareWay = "A change takes a power-off; with `refresh.strategy = \"next_boot\"`, it waits for the next start."

// among lists texts for a description.
func among(texts []string) string { return "`" + strings.Join(texts, "`, `") + "`" }

func cpuAttribute() schema.SingleNestedAttribute {
	count := func(of string) schema.Int64Attribute {
		return schema.Int64Attribute{
			Optional: true,
			MarkdownDescription: of +
				" The product of `sockets`, `cores` and `threads` is `max_vcpus`, or `vcpus` if that is not set; one " +
				"that is not set counts as 1. If none of them is set, each virtual CPU is a socket. " + hardwareWay,
			Validators: []validator.Int64{int64validator.Between(1, hypervisor.MaxVCPUs)},
		}
	}
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "The processor of the VM.",
		Attributes: map[string]schema.Attribute{
			"model": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "`host-passthrough`, the host's own; `host-model`, the named model that is closest to it; `maximum`, all that the " +
					"hypervisor can do; or a named model. The plan refuses a model that the host cannot offer, and " +
					"lists those that it can. Default: `host-passthrough`, and `maximum` on a host without " +
					"KVM. " + hardwareWay,
				Validators: []validator.String{isCPUModel},
			},
			"sockets": count("Sockets."),
			"cores":   count("Cores of each socket."),
			"threads": count("Threads of each core."),
			"pinning": schema.MapAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "The host's processors that a virtual CPU may run on, by the number of the virtual CPU: `{ \"0\" = \"0-3\", \"1\" = \"4,6\" }`. " +
					"Needs KVM. Default: all of them. " + hardwareWay,
				Validators: []validator.Map{mapvalidator.KeysAre(isVCPU), mapvalidator.ValueStringsAre(isProcessors)},
			},
			"shares": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: fmt.Sprintf(
					"Weight of the VM where the host's processors are short, %d to %d: one with 200 gets twice the "+
						"time of one with 100. It is `cpu.weight` of cgroup v2, whose default is 100, and "+
						"`cpu.shares` of cgroup v1, whose default is 1024. libvirt needs the cgroup controller `cpu` "+
						"for it. A change is live: it interrupts nothing.",
					hypervisor.MinShares, hypervisor.MaxShares),
				Validators: []validator.Int64{int64validator.Between(hypervisor.MinShares, hypervisor.MaxShares)},
			},
		},
	}
}

func memoryBackingAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "How the host backs the memory of the VM.",
		Attributes: map[string]schema.Attribute{
			"huge_page_size": schema.StringAttribute{
				Optional: true, CustomType: sizeType{},
				MarkdownDescription: "Size of the host's huge pages that hold the memory, such as `2MiB`. The plan refuses it if the host has fewer free ones than the VM " +
					"needs; `virsh allocpages` reserves some. Default: the usual pages. " + hardwareWay,
				Validators: []validator.String{sizeAtLeast(64 << 10)},
			},
			"numa_nodes": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "NUMA nodes of the host that the memory comes from, such as `0` or `0-1`. Default: any. " + hardwareWay,
				Validators:          []validator.String{isProcessors},
			},
			"numa_mode": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "How strictly it comes from `numa_nodes`: " + among(hypervisor.NUMAModes) +
					". Default: `" + hypervisor.NUMAModes[0] +
					"`. " + hardwareWay,
				Validators: []validator.String{oneOf(hypervisor.NUMAModes...)},
			},
		},
	}
}

func graphicsAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "A graphical console. A VM has none unless this is set; `{}` is VNC on a port of the host's 127.0.0.1 that libvirt chooses " +
			"(`virsh domdisplay`). It asks nobody for a password: whoever reaches it has the console.",
		Attributes: map[string]schema.Attribute{
			"type": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: among(hypervisor.GraphicsTypes) + ". Default: `" +
					hypervisor.GraphicsTypes[0] + "`. " + hardwareWay,
				Validators: []validator.String{oneOf(hypervisor.GraphicsTypes...)},
			},
			"listen": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Address of the host on which it listens. Everybody who reaches another address than `127.0.0.1` or `::1` reaches the console. " +
					"Default: `127.0.0.1`. " + hardwareWay,
				Validators: []validator.String{isHostAddress},
			},
			"port": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "TCP port. Default: one that libvirt chooses at each start, from 5900 up. " +
					hardwareWay,
				Validators: []validator.Int64{int64validator.Between(1024, 65535)},
			},
			"socket": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Path of a unix socket on the host, instead of `listen` and `port`. QEMU makes it, so that its user must be able to write " +
					"to the directory. " + hardwareWay,
				Validators: []validator.String{isHostPath},
			},
			"video": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Graphics card: " + among(hypervisor.VideoModels) +
					". The kernel of the base needs a driver for it. Default: `" +
					hypervisor.VideoModels[0] + "`. " + hardwareWay,
				Validators: []validator.String{oneOf(hypervisor.VideoModels...)},
			},
		},
	}
}

func rngAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "The random number generator, which every VM has (virtio-rng).",
		Attributes: map[string]schema.Attribute{
			"source": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Device of the host that it reads from: " + among(hypervisor.RandomSources) +
					". Default: `" + hypervisor.RandomSources[0] + "`. " +
					hardwareWay,
				Validators: []validator.String{oneOf(hypervisor.RandomSources...)},
			},
			"bytes_per_second": schema.Int64Attribute{
				Optional:            true,
				MarkdownDescription: "How many bytes the VM gets in a second. Default: no limit. " + hardwareWay,
				Validators:          []validator.Int64{int64validator.Between(1, 1<<30)},
			},
		},
	}
}

func hostDirectoriesAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Directories of the host that the VM can mount by virtiofs, by tags of your choice: in the VM, `mount -t virtiofs TAG /mnt`, or a " +
			"mount unit in `units`. The host needs virtiofsd, and the kernel of the base the driver `virtiofs`. They are the host's: what the VM " +
			"writes there outlives it.",
		Validators: []validator.Map{mapvalidator.KeysAre(isHostDevice)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"path": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Absolute path of the directory on the host. It must exist. " + hardwareWay,
				Validators:          []validator.String{isHostPath},
			},
			"read_only": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Whether the VM can only read it. That needs virtiofsd 1.13. Default: false. " +
					hardwareWay,
			},
		}},
	}
}

func hostDevicesAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Devices of the host that the VM gets, by names of your choice. Each has exactly one of `pci` and `usb`. While the VM runs, the host " +
			"cannot use them. The plan refuses a device that the host does not have, and one of PCI on a host without an IOMMU.",
		Validators: []validator.Map{mapvalidator.KeysAre(isHostDevice)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"pci": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "PCI address, such as `0000:01:00.0`. " + hardwareWay,
				Validators:          []validator.String{isPCI},
			},
			"usb": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Vendor and product of a USB device, such as `1d6b:0002`, as `lsusb` shows them. " + hardwareWay,
				Validators:          []validator.String{isUSB},
			},
		}},
	}
}

func xmlPatchAttribute() schema.ListNestedAttribute {
	return schema.ListNestedAttribute{
		Optional: true,
		MarkdownDescription: "Changes of the libvirt definition for what no other attribute is for, applied in this " +
			"order whenever the VM is defined. The plan applies them and asks libvirt whether it accepts the result. " +
			"What another attribute is for, and what the VM stands on (kernel, disks, vsock, metadata), cannot be " +
			"changed. If somebody takes one out of the definition, `faults` says so, and the next apply puts it " +
			"back, unless libvirt has written it in other words.",
		Validators: []validator.List{listvalidator.SizeAtMost(64)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"op": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: among(hypervisor.PatchOps) + ". " + hardwareWay,
				Validators:          []validator.String{oneOf(hypervisor.PatchOps...)},
			},
			"path": schema.StringAttribute{
				Required: true,
				MarkdownDescription: "What it is about: exactly one element, such as `/domain/devices` or `/domain/devices/interface[2]`, or an attribute of one, such " +
					"as `/domain/cpu/feature[@name='pku']/@policy`. " + hardwareWay,
			},
			"xml": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "What is added as the last elements in the one at `path`, or what that is replaced by; for an attribute, its value. The prefix `qemu:` " +
					"need not be declared. " + hardwareWay,
			},
		}},
	}
}

var (
	cpuTypes           = typesOf(cpuAttribute().Attributes)
	memoryBackingTypes = typesOf(memoryBackingAttribute().Attributes)
	graphicsTypes      = typesOf(graphicsAttribute().Attributes)
	rngTypes           = typesOf(rngAttribute().Attributes)
	hostDirectoryType  = types.ObjectType{AttrTypes: typesOf(hostDirectoriesAttribute().NestedObject.Attributes)}
	hostDeviceType     = types.ObjectType{AttrTypes: typesOf(hostDevicesAttribute().NestedObject.Attributes)}
	xmlPatchType       = types.ObjectType{AttrTypes: typesOf(xmlPatchAttribute().NestedObject.Attributes)}
)

func (*vmHardware) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		vm.AttributeMachine: schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "Machine type: `q35`, or a version of it such as `pc-q35-9.2`, with which the guest sees the same machine after an upgrade of QEMU. `q35` " +
				"is the newest version that QEMU has when the VM is defined. Default: `q35`. " + hardwareWay,
			Validators: []validator.String{isMachine},
		},
		vm.AttributeCPU:           cpuAttribute(),
		vm.AttributeMemoryBacking: memoryBackingAttribute(),
		vm.AttributeTPM: schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "Model of a TPM 2.0 for the VM, " + among(hypervisor.TPMModels) +
				", which swtpm emulates on the host. Its state belongs to the libvirt " +
				"domain, and is deleted with the VM. Default: none. " + hardwareWay,
			Validators: []validator.String{oneOf(hypervisor.TPMModels...)},
		},
		vm.AttributeGraphics: graphicsAttribute(),
		vm.AttributeWatchdog: schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "What happens when the guest does not serve its watchdog (i6300esb) in time: " +
				among(hypervisor.WatchdogActions) + ". It does nothing until the guest opens it; the agent does so " +
				"for a kexec, which a VM whose new kernel hangs survives only with `reset`. Default: " +
				"`reset`. " + hardwareWay,
			Validators: []validator.String{oneOf(hypervisor.WatchdogActions...)},
		},
		vm.AttributeRNG:         rngAttribute(),
		vm.AttributeDirectories: hostDirectoriesAttribute(),
		vm.AttributeDevices:     hostDevicesAttribute(),
		vm.AttributePatches:     xmlPatchAttribute(),
		"console_log": computedText(
			"File on the host that has the serial console of the VM. libvirt's virtlogd writes it, and keeps it from " +
				"growing without end: `max_size` and `max_backups` in its `/etc/libvirt/virtlogd.conf` are for all " +
				"VMs of the host, 2 MiB and 3 older files if nothing else is set there."),
	}
}
