"""Rendered scenes with exact segmentation, depth and normals: spheres and boxes in a room.

A scene has a floor, a back wall and objects that stand on the floor, under one light far away that
casts hard shadows. A ray for each pixel is intersected with each surface; what it meets first is
what the pixel shows. World coordinates are in metres: x to the right, y up, z into the room. Those
of the camera, for depth and normals: x to the right, y up, z along its axis.
"""

import functools
from typing import NamedTuple

import numpy as np

SIZE = 64
FOCAL = 64.0  # pixels: a field of view of 53 degrees
CLASSES = "floor", "wall", "sphere", "box"
AMBIENT, NOISE = 0.35, 0.02
NEAR = 1e-4  # a ray that begins on a surface does not meet it there


class Scene(NamedTuple):
    """What a ray can meet, the light and the camera; all lengths in metres.

    Attributes:
        wall: the back wall's distance z. The floor is at y = 0.
        spheres: list of (center (3,), radius).
        boxes: list of (center (3,), half sizes (3,), yaw about the vertical axis in radians).
        albedos: array (2 + spheres + boxes, 3): colours of floor, wall, spheres and boxes.
        light: unit vector (3,) towards the light.
        height: of the camera, which is at (0, height, 0).
        pitch: angle in radians by which the camera looks down.
    """

    wall: float
    spheres: list
    boxes: list
    albedos: np.ndarray
    light: np.ndarray
    height: float
    pitch: float


class View(NamedTuple):
    """What the camera sees, with an entry for each pixel, rows from the top.

    Attributes:
        image: float32 (64, 64, 3), colours from 0 to 1.
        segmentation: int32 (64, 64), index into `CLASSES`.
        depth: float32 (64, 64), metres along the camera's axis (z, not along the ray).
        normals: float32 (64, 64, 3), unit vectors in camera coordinates, towards the camera.
    """

    image: np.ndarray
    segmentation: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def random_scene(rng):
    """Return a scene with two to five objects, drawn by a `numpy.random.Generator`."""
    wall = rng.uniform(6.0, 9.0)
    spheres, boxes = [], []
    for _ in range(rng.integers(2, 6)):
        z = rng.uniform(2.5, wall - 1.0)
        x = rng.uniform(-0.45, 0.45) * z
        if rng.random() < 0.5:
            radius = rng.uniform(0.3, 0.9)
            spheres.append((np.array([x, radius, z]), radius))
        else:
            half = rng.uniform(0.25, 0.8, size=3)
            boxes.append((np.array([x, half[1], z]), half, rng.uniform(0.0, np.pi)))
    albedos = rng.uniform(0.2, 1.0, size=(2 + len(spheres) + len(boxes), 3))
    light = np.array([rng.uniform(-0.8, 0.8), 1.0, rng.uniform(-0.9, -0.1)])
    light /= np.linalg.norm(light)
    pitch = np.radians(rng.uniform(5.0, 20.0))
    return Scene(wall, spheres, boxes, albedos, light, rng.uniform(1.2, 2.0), pitch)


def camera_rays(size=SIZE):
    """Return (size * size, 3) directions in camera coordinates, with z = 1.

    With z = 1 the length along a ray, in multiples of its direction, is the depth.
    """
    offsets = (np.arange(size) + 0.5 - size / 2) / (FOCAL * size / SIZE)
    x, y = np.meshgrid(offsets, -offsets)
    return np.stack([x.ravel(), y.ravel(), np.ones(size * size)], axis=1)


def rotation(scene):
    """Return the matrix R (3, 3) with world = R camera."""
    cos, sin = np.cos(scene.pitch), np.sin(scene.pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


def render(scene, rng=None, size=SIZE):
    """Return the `View` of a scene; `rng` draws the camera's noise, `None` for none."""
    turn = rotation(scene)
    directions = camera_rays(size) @ turn.T
    eye = np.broadcast_to([0.0, scene.height, 0.0], directions.shape)
    depth, surface, normals = first_hit(scene, eye, directions)
    points = eye + depth[:, None] * directions
    lit = np.maximum(normals @ scene.light, 0.0)
    lit *= ~np.isfinite(distances(scene, points, np.broadcast_to(scene.light, points.shape)).min(0))
    image = scene.albedos[surface] * (AMBIENT + (1.0 - AMBIENT) * lit)[:, None]
    if rng is not None:
        image = image + NOISE * rng.normal(size=image.shape)
    kinds = np.repeat(np.arange(4), [1, 1, len(scene.spheres), len(scene.boxes)])
    grid = (size, size)
    return View(
        np.clip(image, 0.0, 1.0).reshape(*grid, 3).astype("float32"),
        kinds[surface].reshape(grid).astype("int32"),
        depth.reshape(grid).astype("float32"),
        (normals @ turn).reshape(*grid, 3).astype("float32"),
    )


def distances(scene, origins, directions):
    """Return how far along each ray each surface is: (surfaces, rays), inf where it is not met.

    Args:
        scene: a `Scene`.
        origins: array (rays, 3).
        directions: array (rays, 3), of any length; distances are in multiples of it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = -origins[:, 1] / directions[:, 1]
        wall = (scene.wall - origins[:, 2]) / directions[:, 2]
        found = [floor, wall]
        found += [_to_sphere(origins, directions, *sphere) for sphere in scene.spheres]
        found += [_to_box(origins, directions, *box)[0] for box in scene.boxes]
        found = np.array(found)
        return np.where(found > NEAR, found, np.inf)


def first_hit(scene, origins, directions):
    """Return each ray's distance, the surface that it meets first, and the unit normal there."""
    found = distances(scene, origins, directions)
    surface = np.argmin(found, axis=0)
    distance = found[surface, np.arange(len(surface))]
    normals = np.zeros_like(directions)
    normals[surface == 0, 1] = 1.0
    normals[surface == 1, 2] = -1.0
    for number, (center, radius) in enumerate(scene.spheres, 2):
        here = surface == number
        points = origins[here] + distance[here, None] * directions[here]
        normals[here] = (points - center) / radius
    for number, box in enumerate(scene.boxes, 2 + len(scene.spheres)):
        here = surface == number
        normals[here] = _to_box(origins[here], directions[here], *box)[1]
    return distance, surface, normals


def _to_sphere(origins, directions, center, radius):
    """Solve |o + t d - c|^2 = r^2 for the smaller t: the camera is outside."""
    offset = origins - center
    a = np.sum(directions**2, axis=1)
    half_b = np.sum(offset * directions, axis=1)
    c = np.sum(offset**2, axis=1) - radius**2
    root = half_b**2 - a * c
    return np.where(root > 0.0, (-half_b - np.sqrt(np.maximum(root, 0.0))) / a, np.inf)


def _to_box(origins, directions, center, half, yaw):
    """Return the distance by slabs, inf where the box is missed, and the normal of the side."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])  # world = turn @ box
    offset, along = (origins - center) @ turn, directions @ turn
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (-half - offset) / along, (half - offset) / along
    enters, leaves = np.minimum(one, other), np.maximum(one, other)
    side = np.argmax(enters, axis=1)
    enter = enters[np.arange(len(side)), side]
    met = enter < leaves.min(axis=1)
    normals = np.zeros_like(along)
    chosen = np.arange(len(side)), side
    normals[chosen] = -np.sign(along[chosen])
    return np.where(met, enter, np.inf), normals @ turn.T


@functools.cache
def make_data(count, seed, size):
    """Return images and labels of `count` scenes; the same for the same seed.

    The labels are those of every `SIZE / size`-th pixel, from the middle of the first block.

    Returns:
        A tuple of `x`, float32 (count, 64, 64, 5): the image, and each pixel's place from -1 to 1,
        since what a floor's pixel says of depth depends on its row; and a dictionary of
        "segmentation" (count, size, size), "depth" (count, size, size, 1) and "normals"
        (count, size, size, 3).
    """
    rng = np.random.default_rng(seed)
    views = [render(random_scene(rng), rng) for _ in range(count)]
    image, segmentation, depth, normals = (np.stack(part) for part in zip(*views, strict=True))
    place = np.linspace(-1.0, 1.0, SIZE, dtype="float32")
    places = np.broadcast_to(np.stack(np.meshgrid(place, place), -1), (count, SIZE, SIZE, 2))
    step = SIZE // size
    kept = slice(step // 2, None, step)
    return np.concatenate([2.0 * image - 1.0, places], -1), {
        "segmentation": segmentation[:, kept, kept],
        "depth": depth[:, kept, kept, None],
        "normals": normals[:, kept, kept],
    }
