"""GPUs through NVIDIA's management library, if the driver has installed it."""

from __future__ import annotations

from typing import Any

_LIBRARY = "libnvidia-ml.so.1"


class Nvml:
    """A loaded and initialised libnvidia-ml; every call may fail and then answers None."""

    def __init__(self, library: Any = None) -> None:
        """Loads the library.

        Raises:
            OSError: There is none, or no driver behind it.
        """
        import ctypes

        self._ctypes = ctypes
        self._library = ctypes.CDLL(_LIBRARY) if library is None else library
        if self._library.nvmlInit_v2() != 0:
            raise OSError("libnvidia-ml has no driver")
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        self._devices = []
        for index in range(min(count.value, 64)):
            device = ctypes.c_void_p()
            if self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0:
                self._devices.append(device)

    def _memory(self, device: Any) -> tuple[int, int]:
        values = (self._ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
        is_known = self._library.nvmlDeviceGetMemoryInfo(device, self._ctypes.byref(values)) == 0
        return (values[0], values[2]) if is_known else (0, 0)

    def describe(self) -> list[dict[str, Any]]:
        """Returns name, UUID and memory of each GPU."""
        gpus = []
        for device in self._devices:
            texts = {}
            for key, call in (("name", "nvmlDeviceGetName"), ("uuid", "nvmlDeviceGetUUID")):
                text = self._ctypes.create_string_buffer(96)
                if getattr(self._library, call)(device, text, 96) == 0:
                    texts[key] = text.value.decode("utf-8", "replace")
            gpus.append(texts | {"memory_bytes": self._memory(device)[0]})
        return gpus

    def driver(self) -> str:
        """Returns the driver's version, or an empty text."""
        text = self._ctypes.create_string_buffer(96)
        is_known = self._library.nvmlSystemGetDriverVersion(text, 96) == 0
        return text.value.decode("utf-8", "replace") if is_known else ""

    def usage(self) -> dict[str, float]:
        """Returns utilisation (percent) and used memory (bytes) as ``gpu.<index>.…``."""
        found: dict[str, float] = {}
        for index, device in enumerate(self._devices):
            values = (self._ctypes.c_uint * 2)()  # nvmlUtilization_t: gpu, memory
            if self._library.nvmlDeviceGetUtilizationRates(device, self._ctypes.byref(values)) == 0:
                found[f"gpu.{index}.percent"] = values[0]
            total_bytes, used_bytes = self._memory(device)
            if total_bytes:
                found[f"gpu.{index}.memory_bytes"] = used_bytes
        return found
